"""What a version's tags say. Anybody who may write to the registry may edit them by hand, so nothing here trusts them to be well formed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Never, TypeVar

from pydantic import ValidationError

from infra.errors import RetryLater
from schemas.promotion import Transition

T = TypeVar("T")

#: Our tags on a version; callers' tags must not use these names. FILES is the sha256 of each file by its name.
DIGEST, FILES, PARENT, DATASET, LOGGED_MODEL = "sha256", "files", "parent", "dataset", "logged_model"
#: The tags of a version's transitions: promotion.0001, promotion.0002, ...
TRANSITION = "promotion."
#: The caller's tag that names the training run a version is of.
RUN_ID = "run_id"


class UnreadableLog(tuple[Transition, ...]):
    """The log of a version in which a tag is no transition: whoever looks into it gets a RetryLater, until it is mended.

    The rest of the version can be used, and so can other versions. Taken for empty or cut short it would say that the version stands elsewhere.
    """

    reason: str

    def _raise(self, *_: object) -> Never:
        raise RetryLater(self.reason)

    __len__ = __iter__ = __getitem__ = __reversed__ = __contains__ = _raise


def transition_tag(seq: int) -> str:
    return f"{TRANSITION}{seq:04d}"


def transitions(log: Mapping[str, str], version: str) -> tuple[Transition, ...]:
    """The steps that `log` holds by their tags, oldest first; an UnreadableLog where one is malformed, misplaced or missing. `version` is for its text."""
    found: list[Transition] = []
    for tag, entry in sorted(log.items()):
        try:
            step = Transition.model_validate_json(entry)
        except ValidationError:
            return _unreadable(f"{version}: its tag {tag} is no transition; it was changed by hand and must be restored")
        if tag != transition_tag(len(found) + 1) or step.seq != len(found) + 1:
            return _unreadable(f"{version}: its tag {tag} holds transition {step.seq} where {len(found) + 1} belongs; restore what was there")
        found.append(step)
    return tuple(found)


def unreadable(log: tuple[Transition, ...]) -> str | None:
    """Why a version's log cannot be read; None where it can."""
    return log.reason if isinstance(log, UnreadableLog) else None


def file_sums(text: str | None) -> Mapping[str, str]:
    """sha256 by file name; empty where none are recorded. The digest, which covers every file but the model card, holds in any case."""
    found = parsed(json.loads, text)
    return {str(name): str(digest) for name, digest in found.items()} if isinstance(found, dict) else {}


def parsed(parse: Callable[[str], T], text: str | None) -> T | None:
    """What `parse` makes of a tag; None where there is none, or nothing can be made of it."""
    try:
        return parse(text) if text else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _unreadable(reason: str) -> UnreadableLog:
    log = UnreadableLog()
    log.reason = reason
    return log
