"""sha256 of published files, compared with the recorded ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

from infra.errors import CannotContinue


class PackageDiffers(CannotContinue):
    """A published file is not the one whose digest is recorded. Nothing is converted."""


def check_file(path: Path, sha256: str, package: str) -> None:
    """Raises PackageDiffers, which names `package` and the file, if the file has another sha256; CannotContinue if it cannot be read."""
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CannotContinue(f"{package}: cannot read {path}: {error.strerror or type(error).__name__}") from error
    if actual != sha256:
        raise PackageDiffers(f"{package} is refused: {path.name} has sha256 {actual}, expected {sha256}")
