"""What `test_distributed` starts twice: one process of a launch that hears a word, or loses the other. Argument: what the main one does."""

from __future__ import annotations

import os
import signal
import sys

from infra.errors import RetryLater
from trainer.learn.distributed import is_main, joined_launch


def main(deed: str) -> int:
    try:
        with joined_launch(60) as launch:
            if not is_main():
                sys.stdout.write(f"{launch.receive()}\n")
            elif deed == "tell":
                launch.send({"run_id": "ü"})
            elif deed == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif deed == "fail":
                raise ValueError
            launch.leave()
    except RetryLater as error:
        sys.stdout.write(f"{error}\n")
    except ValueError:
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
