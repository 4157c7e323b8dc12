"""Report files, which a command writes after minutes of work: checked before the work begins."""

from __future__ import annotations

from pathlib import Path

from infra.errors import CannotContinue


def check_writable(path: Path, option: str = "--out") -> None:
    """Create the folder of `path` and check that the file can be written, without changing it. Raises CannotContinue, which names the option, if not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        path.open("a").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise _unwritable(path, error, option) from None


def write(path: Path, text: str, option: str = "--out") -> None:
    """Write the file in UTF-8. Raises CannotContinue if that fails, such as on a full disk."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error, option) from None


def _unwritable(path: Path, error: OSError, option: str) -> CannotContinue:
    return CannotContinue(f"cannot write {path}: {error.strerror or error}; choose another {option}")
