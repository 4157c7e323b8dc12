"""Normalizes texts for comparison: Unicode NFKC, single blanks, no quotes around the whole.

Letter case and punctuation stay, because they are part of a user's style. `folded` ignores letter case.
"""

from __future__ import annotations

import unicodedata

_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»"), ("„", "“"), ("`", "`"))


def normalized(text: str) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", text).split())
    while len(plain) > 1 and (plain[0], plain[-1]) in _QUOTES:
        plain = plain[1:-1].strip()
    return plain


def folded(text: str) -> str:
    """Normalized, without letter case."""
    return normalized(text).casefold()
