"""`python -m trainer.judge --version N`: judges a registered version against the champion and prints the `GateResult` as one JSON object.

Exit codes: 0 judged, whatever the outcome; 1 cannot be judged, the log says why; 2 an impossible setting or flag; 75 broker or registry unavailable, try later.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading

from infra.errors import RetryLater
from infra.process.lifecycle import run_process
from infra.settings import Settings
from trainer.judge.gate import EXIT_TRY_LATER
from trainer.learn.offline_libraries import keep_libraries_offline

log = logging.getLogger(__name__)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer.judge", description="Judge a registered version against the champion; one JSON object.")
    parser.add_argument("--version", required=True, help="number of the version in the registry")
    version: str = parser.parse_args().version

    def body(settings: Settings, stop: threading.Event) -> None:
        keep_libraries_offline()
        from trainer.judge.gate_job import judge_version

        try:
            result = judge_version(settings, version, stop)
        except RetryLater as error:
            log.warning("cannot be judged now", extra={"version": version, "reason": str(error)})
            raise SystemExit(EXIT_TRY_LATER) from error
        sys.stdout.write(json.dumps(result.model_dump(mode="json")) + "\n")

    return run_process("gate", body)


if __name__ == "__main__":
    raise SystemExit(main())
