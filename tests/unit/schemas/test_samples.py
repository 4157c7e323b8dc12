"""A message that was once written loads for ever: one sample of each version, never edited after its release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas import asyncapi
from schemas.messages import message_type
from schemas.topics import TOPICS

SAMPLES = sorted(asyncapi.SAMPLES.glob("*.json"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_loads_with_the_same_content(path: Path) -> None:
    message = message_type(path.stem).from_bytes(path.read_bytes())
    assert _within(json.loads(path.read_text()), json.loads(message.to_bytes()))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_newer_writers_field_is_ignored(path: Path) -> None:
    sample = json.loads(path.read_text()) | {"field_of_next_year": {"x": 1}}
    kind = message_type(path.stem)
    assert kind.from_bytes(json.dumps(sample).encode()) == kind.from_bytes(path.read_bytes())


def test_every_topics_message_has_a_sample() -> None:
    assert {topic.message.ce_type() for topic in TOPICS} <= {path.stem for path in SAMPLES}


def _within(old: Any, new: Any) -> bool:
    """Whether everything the sample says is still said; fields may have been added. Times compare as JSON text in UTC."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(name in new and _within(value, new[name]) for name, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(old) == len(new) and all(map(_within, old, new))
    return bool(old == new)
