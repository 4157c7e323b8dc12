"""`python -m tests.support.killed_trainer TEXT FIELD=VALUE TIMES`: `python -m trainer --once`, killed by SIGKILL at a log line.

The log lines name the moments of a run, so a test can kill the process at each of them without a hook in the trainer.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from typing import NamedTuple

from infra.settings import Settings
from trainer.__main__ import main

RUN_S = 400.0


class Moment(NamedTuple):
    """The `times`-th log line with this text and this value of the field."""

    text: str
    field: str
    value: str
    times: int = 1


class KillingHandler(logging.Handler):
    def __init__(self, moment: Moment) -> None:
        super().__init__()
        self._moment, self._left = moment, moment.times

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == self._moment.text and str(vars(record).get(self._moment.field)) == self._moment.value:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def train_once(settings: Settings, moment: Moment | None = None) -> int:
    """Runs the trainer in a new process, which is killed at `moment`. Returns the exit code. Appends the log to `stack.dir/trainer.log`."""
    trainer = settings.trainer.model_dump(mode="json")
    environment = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers(),
        "RETOUCH_STACK__DIR": str(settings.stack.dir),
        "RETOUCH_REGISTRY__MODEL_NAME": settings.registry.model_name,
        "RETOUCH_REFLECTION__CHECKPOINT": str(settings.reflection.checkpoint),
        "RETOUCH_REFLECTION__MAX_NEW_TOKENS": str(settings.reflection.max_new_tokens),
        "RETOUCH_TRAINER": json.dumps(trainer),
    }
    arguments = [moment.text, f"{moment.field}={moment.value}", str(moment.times)] if moment else []
    settings.stack.dir.mkdir(parents=True, exist_ok=True)
    with (settings.stack.dir / "trainer.log").open("ab") as output:
        command = [sys.executable, "-m", "tests.support.killed_trainer", *arguments]
        return subprocess.run(command, env=environment, stdout=output, stderr=output, timeout=RUN_S, check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) > 1:
        text, condition, times = sys.argv[1:]
        field, _, value = condition.partition("=")
        logging.getLogger("trainer").addHandler(KillingHandler(Moment(text, field, value, int(times))))
    sys.argv[1:] = ["--once"]
    raise SystemExit(main())
