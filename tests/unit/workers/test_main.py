from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
#: Nobody listens there; nothing gets as far as trying.
BROKER = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["workers", "base"], BROKER, "base.url is empty"),
        (["workers", "teacher"], {}, "kafka.bootstrap_servers is empty"),
        (["pico.server"], {"OPENAI_BASE_URL": "https://example.org/v1"}, "the base endpoint serves http://HOST:PORT/v1"),
        (["workers", "nonsense"], {}, "invalid choice: 'nonsense'"),
        (["workers"], {}, "the following arguments are required: WORKER"),
    ],
)
def test_what_cannot_run_says_why_and_exits_with_two(arguments: list[str], settings: dict[str, str], said: str) -> None:
    command = [sys.executable, "-m", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_naming_a_worker_loads_no_other() -> None:
    code = "import sys, workers.base.service; print([name for name in ('torch', 'vllm', 'transformers', 'fastapi') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    assert ended.stdout.strip() == "[]"
