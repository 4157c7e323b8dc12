"""Saved states: what a stage needs to resume after a kill, in folders that are there whole or not at all.

A state is `<directory>/<number>/tensors.safetensors` beside `state.json`, which contains plain facts and the digests of both. It is written under another
name, synced, and renamed. The state before it is kept, so a broken one (a full disk, a bad sector) loses only the steps since then. Numbers rise. A state
that was made for another purpose is never used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

TENSORS, FACTS = "tensors.safetensors", "state.json"
#: The newest states that are kept.
STATES_KEPT = 2
_NEW = ".new"
#: Parts of the RuntimeErrors of torch.save that a disk causes.
_TORCH_WRITE_ERRORS = ("inline_container.cc", "PytorchStreamWriter", "iostream error")


class BrokenState(ValueError):
    """A state's files differ from its digests, or it was made for another purpose."""


@dataclass(frozen=True)
class SavedState:
    number: int
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def save_state(directory: Path, state: SavedState, purpose: Mapping[str, Any]) -> None:
    """Store `state` as the newest in `directory` and delete all but the one before it. `purpose` (plain JSON) must be equal to load it again.

    Blocks for the disk. Raises OSError if it cannot be written.
    """
    from safetensors.torch import save_file

    scratch = directory / _NEW
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    with disk_errors(directory):
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.tensors.items()}, scratch / TENSORS)
    body = {"facts": state.facts, "purpose": digest_of(purpose), "tensors": digest_of_file(scratch / TENSORS)}
    (scratch / FACTS).write_text(json.dumps(body | {"digest": digest_of(body)}))
    for path in (scratch / TENSORS, scratch / FACTS, scratch):
        _sync(path)
    target = directory / f"{state.number:08d}"
    shutil.rmtree(target, ignore_errors=True)  # it is broken, or this step would not have been done again
    scratch.rename(target)
    _sync(directory)
    for old in _numbered(directory)[:-STATES_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def newest_state(directory: Path, purpose: Mapping[str, Any]) -> SavedState | None:
    """The newest sound state that was made for `purpose`, or None. A broken one is logged, and the one before it is tried."""
    for path in reversed(_numbered(directory)):
        try:
            return _read(path, purpose)
        except BrokenState as error:
            log.warning("state set aside", extra={"state": str(path), "reason": str(error)})
    return None


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Raises OSError for the errors that safetensors and torch raise if the disk is full."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{directory}: {error}") from error
    except RuntimeError as error:
        if not any(part in str(error) for part in _TORCH_WRITE_ERRORS):
            raise
        raise OSError(f"{directory}: {str(error).splitlines()[0]}") from error


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write the file whole or not at all: it is synced before it is renamed."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(value, indent=indent) + "\n")
    _sync(scratch)
    scratch.replace(path)


def digest_of(value: Any) -> str:
    """sha256 of plain JSON. The order of its keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, purpose: Mapping[str, Any]) -> SavedState:
    from safetensors.torch import load_file

    try:
        body = json.loads((path / FACTS).read_text())
        digest = body.pop("digest")
        tensors = digest_of_file(path / TENSORS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenState(f"unreadable: {type(error).__name__}") from None
    if digest != digest_of(body):
        raise BrokenState(f"{FACTS} differs from its digest")
    if tensors != body["tensors"]:
        raise BrokenState(f"{TENSORS} differs from its digest")
    if body["purpose"] != digest_of(purpose):
        raise BrokenState("made with other settings, data or weights")
    return SavedState(int(path.name), body["facts"], load_file(path / TENSORS))


def _numbered(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*") if path.name.isdigit()) if directory.is_dir() else []


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
