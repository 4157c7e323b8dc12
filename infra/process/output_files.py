"""Report files, which a command writes after minutes of work: checked before the work begins."""

from __future__ import annotations

from pathlib import Path

from infra.errors import CannotContinue


def check_writable(path: Path) -> None:
    """Create the folder of `path` and check that the file can be written, without changing it. Raises CannotContinue if not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        path.open("a").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise _unwritable(path, error) from None


def write(path: Path, text: str) -> None:
    """Write the file in UTF-8. Raises CannotContinue if that fails, such as on a full disk."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> CannotContinue:
    return CannotContinue(f"cannot write {path}: {error.strerror or error}; choose another --out")
