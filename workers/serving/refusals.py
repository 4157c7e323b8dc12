"""Versions in quarantine: not tried again until the alias that named them, or their own record in the registry, has changed."""

from __future__ import annotations

from infra.registry.client import RegisteredVersion
from schemas.model_events import Alias
from schemas.serving import Refusal

#: Of a reason in a serving report.
MOST_CHARACTERS = 500


class Refusals:
    """At most one for each alias."""

    def __init__(self) -> None:
        self._by_alias: dict[Alias, tuple[tuple[str, int], Refusal]] = {}

    def add(self, alias: Alias, version: RegisteredVersion, reason: str) -> None:
        self._by_alias[alias] = (_record(version), Refusal(model=version.model, reason=reason[:MOST_CHARACTERS]))

    def holds(self, alias: Alias, version: RegisteredVersion) -> bool:
        return alias in self._by_alias and self._by_alias[alias][0] == _record(version)

    def forget_unless(self, alias: Alias, version: RegisteredVersion | None) -> None:
        """The alias names `version` now."""
        if version is None or not self.holds(alias, version):
            self._by_alias.pop(alias, None)

    def all(self) -> tuple[Refusal, ...]:
        return tuple(refusal for _, refusal in self._by_alias.values())


def _record(version: RegisteredVersion) -> tuple[str, int]:
    return version.version, -1 if version.unreadable else len(version.transitions)
