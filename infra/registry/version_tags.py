"""The tags of a version. Anyone with write access may edit them by hand, so no function here expects valid content."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from schemas.promotion import Transition

T = TypeVar("T")

#: Tags that the registry itself writes; callers' tags must not use these names. FILES is the sha256 of each file by its name.
DIGEST, FILES, PARENT, DATASET, LOGGED_MODEL = "sha256", "files", "parent", "dataset", "logged_model"
#: The tags of a version's transitions: promotion.0001, promotion.0002, ...
TRANSITION = "promotion."
#: The caller's tag with the id of the training run that made the version.
RUN_ID = "run_id"


@dataclass(frozen=True)
class DatasetLineage:
    """The data that a version was trained on. `ranges` maps topic and partition to [start, end) offsets; equal ranges give an equal digest."""

    name: str
    digest: str
    ranges: Mapping[str, Mapping[int, tuple[int, int]]]

    def to_json(self) -> str:
        ranges = {topic: {str(p): list(span) for p, span in spans.items()} for topic, spans in self.ranges.items()}
        return json.dumps({"name": self.name, "digest": self.digest, "ranges": ranges}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DatasetLineage:
        content = json.loads(text)
        ranges = {topic: {int(p): (span[0], span[1]) for p, span in spans.items()} for topic, spans in content["ranges"].items()}
        return cls(content["name"], content["digest"], ranges)


class UnreadableHistory(NamedTuple):
    """Stands for a version's history if one of its tags is not a transition. An empty or shortened history would show another state."""

    reason: str


def transition_tag(seq: int) -> str:
    return f"{TRANSITION}{seq:04d}"


def read_history(tags: Mapping[str, str], version: str) -> tuple[Transition, ...] | UnreadableHistory:
    """The transitions in `tags`, oldest first; UnreadableHistory if one is malformed, misplaced or missing. `version` names the version in the reason."""
    history: list[Transition] = []
    for tag, value in sorted(tags.items()):
        try:
            transition = Transition.model_validate_json(value)
        except ValidationError:
            return UnreadableHistory(f"{version}: its tag {tag} is no transition; it was changed by hand and must be restored")
        if tag != transition_tag(len(history) + 1) or transition.seq != len(history) + 1:
            return UnreadableHistory(
                f"{version}: its tag {tag} holds transition {transition.seq} instead of {len(history) + 1}; it was changed by hand and must be restored"
            )
        history.append(transition)
    return tuple(history)


def file_sums(text: str | None) -> Mapping[str, str]:
    """sha256 by file name; empty if the tag is missing. The digest covers every file but the model card in any case."""
    sums = parsed(json.loads, text)
    return {str(name): str(digest) for name, digest in sums.items()} if isinstance(sums, dict) else {}


def parsed(parse: Callable[[str], T], text: str | None) -> T | None:
    """The parsed content of a tag; None if the tag is missing or invalid."""
    try:
        return parse(text) if text else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
