"""`python -m trainer`: the trainer service, or with a flag one of its parts.

Several processes of one launch (`trainer.learn.distributed`) share one run, with --once: the main process runs, the others only train.
Exit codes: 0 trained, nothing to train (the log says why), or stopped by a signal; 1 failed; 2 an impossible setting or flag.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from contextlib import suppress

from infra.errors import BadSetting
from infra.process.lifecycle import run_process
from infra.settings import Settings
from infra.telemetry.foreign_output import log_output_of_child
from trainer.learn.offline_libraries import keep_libraries_offline


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Without a flag: the service, which runs when a trigger fires, until SIGTERM.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--once", action="store_true", help="one run, then exit")
    mode.add_argument("--bootstrap", action="store_true", help="register the shipped checkpoint as champion if the registry is empty, then exit")
    mode.add_argument("--dry-run", action="store_true", help="print as JSON what a run would train on and why, then exit")
    flags = parser.parse_args()

    def body(settings: Settings, stop: threading.Event) -> None:
        keep_libraries_offline()
        from infra.kafka.background_checks import check_in_background
        from trainer.interruption import Interrupted, interrupted_by
        from trainer.learn.distributed import check_launch, is_main, process_count
        from trainer.promotion.bootstrap import bootstrap
        from trainer.promotion.hydra import promote_versions
        from trainer.run import service
        from trainer.run.training_run import follow, run_training

        check_launch(settings.trainer)
        if process_count() > 1 and not flags.once:
            raise BadSetting(f"{process_count()} processes were launched, but only --once divides a run among processes: add --once, or start one process")
        with suppress(Interrupted), interrupted_by(stop):
            if flags.bootstrap:
                bootstrap(settings, stop=stop)
            elif flags.dry_run:
                sys.stdout.write(json.dumps(service.dry_run(settings, stop), indent=1) + "\n")
            elif flags.once and is_main():
                check_in_background(settings, "trainer", rights=True)
                run_training(settings, stop, bootstrap, promote_hydra=promote_versions)
            elif flags.once:
                follow(settings, stop)
            else:
                check_in_background(settings, "trainer", rights=True)
                service.serve(settings, stop, bootstrap, promote_versions)

    return run_process("trainer", body)


if __name__ == "__mp_main__":  # in a process that vLLM spawns
    log_output_of_child()

if __name__ == "__main__":
    raise SystemExit(main())
