"""Converts the user ids of data sets to ids that fit a record's key."""

from __future__ import annotations

import hashlib

LIMIT = 128


def user_id(raw: str) -> str:
    """`raw` itself if it is a valid id. Otherwise invalid characters become `_`, and a digest is added so that different users stay different.

    Raises ValueError for an empty id.
    """
    plain = " ".join(raw.split())
    if not plain:
        raise ValueError("empty")
    plain = "".join(character if character.isprintable() and character != "/" else "_" for character in plain)
    if plain == raw and len(plain) <= LIMIT:
        return plain
    return f"{plain[: LIMIT - 9].strip()}~{hashlib.sha256(raw.encode(errors='surrogatepass')).hexdigest()[:8]}"
