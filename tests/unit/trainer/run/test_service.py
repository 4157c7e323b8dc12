from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from infra.errors import BadSetting, CannotContinue, RetryLater
from infra.process.file_lock import LockHeld
from infra.settings import load
from infra.settings.training import TrainerSettings
from infra.telemetry.json_logs import JsonLines
from infra.telemetry.metrics import TRAINING_RUNS
from schemas.run_report import RunStatus, Trigger
from trainer.run import service
from trainer.run.service import pause_s, serve
from trainer.run.triggers import BY_HAND

POLL_S, EVERY_S = 2.0, 90.0


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (RetryLater("away"), POLL_S),
        (LockHeld("another trainer is running"), POLL_S),
        (CannotContinue("diverged"), EVERY_S),
        (BadSetting("no GPU"), EVERY_S),
        (KeyError("unforeseen"), EVERY_S),
    ],
)
def test_an_unavailable_dependency_is_retried_soon_and_a_failed_run_on_schedule(error: Exception, pause: float) -> None:
    assert pause_s(error, TrainerSettings(poll_s=POLL_S, every_s=EVERY_S)) == pause


class Waits(threading.Event):
    """A stop event that is set in the `count`-th wait. Records the timeouts."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.seconds: list[float | None] = []
        self._count = count

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        if len(self.seconds) == self._count:
            self.set()
        return self.is_set()


class ScriptedWatch:
    """A watch whose polls raise these errors in turn, or return a trigger until the first attempt."""

    def __init__(self, *errors: Exception | None) -> None:
        self._errors, self._attempted = list(errors), False

    def __enter__(self) -> ScriptedWatch:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def poll(self, stop: threading.Event) -> list[Trigger]:
        if error := self._errors.pop(0) if self._errors else None:
            raise error
        return [] if self._attempted else [BY_HAND]

    def attempted(self) -> None:
        self._attempted = True


def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waits: int, errors: list[Exception | None], runs: list[Exception | None]) -> list[float | None]:
    """Timeouts of all waits of the service."""
    monkeypatch.setattr(service, "Registry", lambda settings, stop: None)
    monkeypatch.setattr(service, "TriggerWatch", lambda *args: ScriptedWatch(*errors))

    def run(*args: Any) -> Mock:
        if error := runs.pop(0):
            raise error
        return Mock(data=Mock(status=RunStatus.TRAINED))

    monkeypatch.setattr(service, "run_training", run)
    stop = Waits(waits)
    serve(load(stack={"dir": tmp_path}, trainer={"poll_s": POLL_S, "every_s": EVERY_S}), stop, Mock())
    assert not runs
    return stop.seconds


def test_an_unexpected_error_does_not_end_the_service_and_quotes_no_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    error = KeyError("a user's words")
    assert served(monkeypatch, tmp_path, 3, [error], [ValueError("a user's words"), None]) == [EVERY_S, EVERY_S, POLL_S]
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.levelno == logging.ERROR]
    assert [(line["text"], line["reason"]) for line in lines] == [("triggers cannot be polled", "KeyError"), ("run failed", "ValueError")]
    assert any(frame.startswith("test_service.py:") and frame.endswith(" run") for frame in lines[1]["frames"])
    assert "words" not in json.dumps(lines)


def test_a_failed_poll_keeps_the_last_attempt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert served(monkeypatch, tmp_path, 4, [None, RetryLater("no broker"), OSError("no more files"), None], [None]) == [POLL_S] * 4


def test_a_service_beside_a_run_by_hand_polls_again_soon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert served(monkeypatch, tmp_path, 2, [], [LockHeld("pid 7"), None]) == [POLL_S] * 2


def test_ended_runs_are_counted_by_their_outcome(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = TRAINING_RUNS.values()
    served(monkeypatch, tmp_path, 4, [], [CannotContinue("diverged"), RetryLater("away"), None])
    counted = {dict(labels)["outcome"]: value - before.get(labels, 0) for labels, value in TRAINING_RUNS.values().items()}
    assert counted == {**dict.fromkeys(counted, 0), "failed": 1, "interrupted": 1, "trained": 1}
