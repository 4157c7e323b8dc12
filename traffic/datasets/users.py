"""Users' ids as data sets write them, made fit for a record's key."""

from __future__ import annotations

import hashlib

LIMIT = 128


def user_id(raw: str) -> str:
    """`raw` itself where it can be an id. Otherwise what cannot stand in one becomes `_`, and a digest keeps different users apart.

    Raises ValueError for an empty id.
    """
    plain = " ".join(raw.split())
    if not plain:
        raise ValueError("empty")
    plain = "".join(character if character.isprintable() and character != "/" else "_" for character in plain)
    if plain == raw and len(plain) <= LIMIT:
        return plain
    return f"{plain[: LIMIT - 9].strip()}~{hashlib.sha256(raw.encode(errors='surrogatepass')).hexdigest()[:8]}"
