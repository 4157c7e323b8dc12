"""Templates of prompts: text with placeholders such as `{text}`, in the form of `str.format`, and of it only names.

An operator writes the template; users' texts are only inserted. A placeholder is one of the allowed names alone: attributes, indices, conversions and format
specifications are refused, so that a template reads nothing but the texts it is given. A brace itself is written twice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from string import Formatter


def check_template(template: str, allowed: Sequence[str], required: Collection[str]) -> None:
    """Raises ValueError with the placeholder that is wrong or missing, and what would be right."""
    names = ", ".join(f"{{{name}}}" for name in allowed) or "none"
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        raise ValueError(f"holds a brace without its other half: write {{{{ or }}}} for a brace itself; the placeholders are {names}") from None
    for _, name, specification, conversion in parts:
        if name is None:
            continue
        if specification or conversion or not name.isidentifier():
            raise ValueError(f"holds the placeholder {{{name}}}, which must be a name alone, without attribute, index and format: use {names}")
        if name not in allowed:
            raise ValueError(f"holds the unknown placeholder {{{name}}}: use {names}, and {{{{ or }}}} for a brace itself")
    for name in required:
        if name not in placeholders(template):
            raise ValueError(f"must hold the placeholder {{{name}}}; the placeholders are {names}")


@lru_cache(maxsize=1024)
def placeholders(template: str) -> frozenset[str]:
    """The names of a template that was checked."""
    return frozenset(name for _, name, _, _ in Formatter().parse(template) if name is not None)
