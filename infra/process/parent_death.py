"""Run a command that dies with its parent: `python -I -S leash.py PARENT_PID COMMAND...`.

Linux sends the chosen signal when the *thread* that started us ends (prctl(2), PR_SET_PDEATHSIG), and keeps it over exec; so a supervisor starts
its children from a thread that outlives them. The same by `preexec_fn` would run Python between fork and exec of a process that has threads, which can
deadlock, and would keep subprocess from using vfork. Imports nothing of ours: it costs 20 ms. On other systems the command simply runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Replace this process by `command`. SIGKILL, not SIGTERM: a child that hangs must not outlive its supervisor, and every part survives it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before we asked
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  # no shell is the point


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
