"""The state directory of a command that makes its own anew at each run, and removes nobody else's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from infra.errors import CannotContinue
from infra.local.record import lock_path
from infra.process.file_lock import holder

#: Written into a state directory when it is made: one without it may be anybody's.
MARKER = ".retouch-state"


def fresh_state(place: Path, *, command: str, run: str, is_ours: Callable[[Path], bool] = lambda state: False) -> Path:
    """An empty `place/state`. One that is absent, empty or marked may go, and what `is_ours` knows besides.

    Raises CannotContinue when a stack runs in it, when it is from no earlier `run` of `command`, or when it cannot be written.
    """
    state = place.resolve() / "state"
    try:
        if pid := holder(lock_path(state)):
            raise CannotContinue(f"a stack runs in {state} (pid {pid}); `retouch down` stops it, or choose another --out")
        if state.exists() and not (state / MARKER).is_file() and not is_ours(state) and any(state.iterdir()):
            raise CannotContinue(f"{state} is not from an earlier {run} and would be removed; move it away, or choose another --out")
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        (state / MARKER).write_text(f"`{command}` removes this directory when it runs again.\n")
    except OSError as error:
        raise CannotContinue(f"cannot write to {state}: {error.strerror or error}; choose another --out") from None
    return state
