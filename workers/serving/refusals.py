"""Versions that this worker refuses. It tries one again only after its alias, or its record in the registry, has changed."""

from __future__ import annotations

from infra.registry.client import RegisteredVersion
from schemas.model_events import Alias
from schemas.serving import Refusal

#: Longest reason in a serving report.
MAX_REASON_CHARS = 500


class Refusals:
    """Refused versions, at most one for each alias."""

    def __init__(self) -> None:
        self._by_alias: dict[Alias, tuple[tuple[str, int], Refusal]] = {}

    def add(self, alias: Alias, version: RegisteredVersion, reason: str) -> None:
        self._by_alias[alias] = (_record(version), Refusal(model=version.model, reason=reason[:MAX_REASON_CHARS]))

    def contains(self, alias: Alias, version: RegisteredVersion) -> bool:
        return alias in self._by_alias and self._by_alias[alias][0] == _record(version)

    def clear_if_changed(self, alias: Alias, version: RegisteredVersion | None) -> None:
        """`version` is what the alias points to now."""
        if version is None or not self.contains(alias, version):
            self._by_alias.pop(alias, None)

    def all(self) -> tuple[Refusal, ...]:
        return tuple(refusal for _, refusal in self._by_alias.values())


def _record(version: RegisteredVersion) -> tuple[str, int]:
    return version.version, -1 if version.unreadable else len(version.transitions)
