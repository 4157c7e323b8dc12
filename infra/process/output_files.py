"""Files that a command writes at its end, after minutes of work: whether they can be written is known before it begins."""

from __future__ import annotations

from pathlib import Path

from infra.errors import CannotContinue


def check_writable(path: Path) -> None:
    """Make the folder of `path` and try the file, leaving its content as it is. Raises CannotContinue when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        path.open("a").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise _unwritable(path, error) from None


def write(path: Path, text: str) -> None:
    """Write the whole file in UTF-8. Raises CannotContinue when that fails all the same: a full disk."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> CannotContinue:
    return CannotContinue(f"cannot write {path}: {error.strerror or error}; choose another --out")
