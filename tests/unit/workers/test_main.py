from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
#: No broker listens there; the process ends before it connects.
BROKER = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["workers", "base"], BROKER, "base.url is empty"),
        (["workers", "base"], BROKER | {"OPENAI_BASE_URL": "127.0.0.1:8001/v1"}, "base.url='127.0.0.1:8001/v1' (OPENAI_BASE_URL): has no http://"),
        (["workers", "teacher"], {}, "kafka.bootstrap_servers is empty"),
        (["pico.server"], {"OPENAI_BASE_URL": "https://example.org/v1"}, "the base endpoint serves http://HOST:PORT/v1"),
        (["workers", "nonsense"], {}, "invalid choice: 'nonsense'"),
        (["workers"], {}, "the following arguments are required: WORKER"),
    ],
)
def test_invalid_settings_or_arguments_exit_with_two_and_a_reason(arguments: list[str], settings: dict[str, str], message: str) -> None:
    command = [sys.executable, "-m", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_base_worker_imports_no_engine() -> None:
    code = "import sys, workers.base.service; print([name for name in ('torch', 'vllm', 'transformers', 'fastapi') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    assert ended.stdout.strip() == "[]"
