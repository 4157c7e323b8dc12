"""Runs a command that dies with its parent: `python -I -S parent_death.py PARENT_PID COMMAND...`.

Linux sends the signal when the *thread* that started the command ends (prctl(2), PR_SET_PDEATHSIG), also after exec. So a supervisor starts its
children from a thread that outlives them. `preexec_fn` would run Python between fork and exec of a process with threads, which can deadlock, and would
keep subprocess from using vfork. Imports no other module of the project, so it costs 20 ms. On other systems the command runs without the signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Replace this process by `command`. The signal is SIGKILL, because a child that hangs must not outlive its supervisor. All our processes recover."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before prctl
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  # no shell is the point


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
