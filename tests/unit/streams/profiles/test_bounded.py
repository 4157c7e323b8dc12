from __future__ import annotations

from streams.profiles.bounded import BoundedDict


def test_a_key_that_is_set_again_is_the_newest_and_the_oldest_are_dropped() -> None:
    entries: BoundedDict[str, int] = BoundedDict(2)
    for key in ("a", "b", "a", "c"):
        entries[key] = len(entries)
    assert list(entries) == ["a", "c"]
