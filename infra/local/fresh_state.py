"""The state directory of a command that replaces it in each run, and never removes a directory of another program."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from infra.errors import CannotContinue
from infra.local.stack_record import lock_path
from infra.process.file_lock import holder

#: Marks a state directory that may be removed.
MARKER = ".retouch-state"


def fresh_state(out: Path, *, command: str, run: str, is_ours: Callable[[Path], bool] = lambda state: False) -> Path:
    """Create an empty `out/state`. Replaces one that is empty, has the marker, or is accepted by `is_ours`.

    Raises CannotContinue if a stack runs in it, if it is not from an earlier `run` of `command`, or if it cannot be written.
    """
    state = out.resolve() / "state"
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
