from __future__ import annotations

from pathlib import Path

import pytest

from infra.process.environment import environment
from infra.settings import load


def test_a_child_process_reads_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_LOG_LEVEL", "ERROR")  # the parent's own environment must not leak past its arguments
    settings = load(
        log_level="INFO",
        kafka={"bootstrap_servers": "a:1,b:2"},
        base={"url": "http://b/v1", "api_key": "sk"},
        trainer={"sft": {"k": 3}, "holdout_share": 0.25},
        reflection={"engine": "transformers"},
        domains={"email_priority": {"user_template": "Which {{priority}}?\n{text}", "options": ["P1", "P2"], "ordered": True, "metric": "ordinal_score"}},
        stack={"dir": tmp_path},
        ready_file=tmp_path / "ready",
    )
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RETOUCH_LOG_LEVEL")
    assert load() == settings
