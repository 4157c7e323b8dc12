"""One process of a launch, which `test_distributed` starts twice. The main process performs the action in the argument; the other prints what it receives."""

from __future__ import annotations

import os
import signal
import sys

from infra.errors import RetryLater
from trainer.learn.distributed import is_main, joined_launch


def main(action: str) -> int:
    try:
        with joined_launch(60) as launch:
            if not is_main():
                sys.stdout.write(f"{launch.receive()}\n")
            elif action == "send":
                launch.send({"run_id": "ü"})
            elif action == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif action == "fail":
                raise ValueError
            launch.leave()
    except RetryLater as error:
        sys.stdout.write(f"{error}\n")
    except ValueError:
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
