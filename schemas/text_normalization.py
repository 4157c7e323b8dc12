"""When two texts count as the same: their characters in one form (Unicode NFKC), blanks folded, quotes around the whole left off.

Letter case and marks stay: they are how people write. Where only what is said counts, compare `folded` texts.
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
