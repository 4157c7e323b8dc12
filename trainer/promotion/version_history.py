"""The logs of all versions, read together: who is champion, who challenges, where each version stands. Pure.

Each version has a log of its own, and a handover is one write into the log of the version that takes over. So the champion is whoever's transition to
champion is the newest of all, whatever the others' own logs still say; a promoter that finds an old champion's log behind completes it (`machine`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from infra.errors import CannotContinue, RetryLater
from infra.registry.client import RegisteredVersion
from schemas.model_events import Alias
from schemas.promotion import CHALLENGING, REASON_CHARS, TRANSITIONS, Transition, VersionState


@dataclass(frozen=True)
class TransitionWrite:
    """One write: this transition at the end of this version's log."""

    version: str
    transition: Transition


@dataclass(frozen=True)
class VersionHistories:
    """All versions of one model, oldest first, as they were read."""

    versions: tuple[RegisteredVersion, ...]

    @classmethod
    def of(cls, versions: Iterable[RegisteredVersion]) -> VersionHistories:
        """Without versions whose log cannot be read: they wait until it is mended, and hold up nobody else.

        Raises RetryLater where that could hide who is champion or challenger: where such a version has an alias, or the aliases are behind the logs.
        """
        found = tuple(versions)
        histories = cls(tuple(version for version in found if not version.unreadable))
        for version in found:
            reason = version.unreadable
            if reason and (version.aliases or not histories.champion or Alias.CHAMPION not in histories.champion.aliases):
                raise RetryLater(reason)
        return histories

    def get(self, version: str) -> RegisteredVersion | None:
        return next((found for found in self.versions if found.version == version), None)

    def replacing(self, version: RegisteredVersion) -> VersionHistories:
        """The same with one version as it was read anew."""
        return VersionHistories(tuple(version if found.version == version.version else found for found in self.versions))

    def naming(self, aliases: Mapping[Alias, RegisteredVersion | None]) -> VersionHistories:
        """The same with these aliases."""
        return VersionHistories(tuple(replace(found, aliases=tuple(alias for alias in Alias if aliases[alias] is found)) for found in self.versions))

    @cached_property
    def handovers(self) -> tuple[tuple[Transition, RegisteredVersion], ...]:
        """Every transition to champion, oldest first."""
        found = [(step, version) for version in self.versions for step in version.transitions if step.after is VersionState.CHAMPION]
        return tuple(sorted(found, key=lambda handover: (handover[0].at, int(handover[1].version))))

    @property
    def champion(self) -> RegisteredVersion | None:
        return self.handovers[-1][1] if self.handovers else None

    @property
    def challenger(self) -> RegisteredVersion | None:
        """The version that is tried on users, at most one."""
        return next((version for version in self.versions if self.state(version) in CHALLENGING), None)

    @property
    def experiment(self) -> UUID | None:
        """Of the challenger's stage."""
        return self.challenger.transitions[-1].experiment if self.challenger else None

    @property
    def former(self) -> tuple[RegisteredVersion, ...]:
        """Versions that were champion and may be again, the latest first."""
        found = dict.fromkeys(version.version for _, version in reversed(self.handovers))
        return tuple(version for name in found if (version := self.get(name)) and self.state(version) is VersionState.RETIRED)

    @cached_property
    def newest_at(self) -> datetime | None:
        return max((step.at for version in self.versions for step in version.transitions), default=None)

    def state(self, version: RegisteredVersion) -> VersionState:
        """Where a version stands by all logs together."""
        if version.state is VersionState.CHAMPION and version is not self.champion:
            return VersionState.REJECTED if self.successor(version)[0].rolls_back else VersionState.RETIRED
        return version.state

    def successor(self, version: RegisteredVersion) -> tuple[Transition, RegisteredVersion]:
        """Who took over from a version that was champion, and by which transition."""
        last = max(place for place, (_, champion) in enumerate(self.handovers) if champion is version)
        return self.handovers[last + 1]

    def is_stale(self, version: RegisteredVersion) -> bool:
        """Whether a gated version was compared with a champion that has given way since."""
        gated = next((step.at for step in reversed(version.transitions) if step.after is VersionState.GATED), None)
        return gated is not None and bool(self.handovers) and gated < self.handovers[-1][0].at

    def in_state(self, state: VersionState) -> tuple[RegisteredVersion, ...]:
        """Oldest first."""
        return tuple(version for version in self.versions if self.state(version) is state)

    def transition(self, version: RegisteredVersion, after: VersionState, actor: str, reason: str, now: datetime, **facts: Any) -> TransitionWrite:
        """The next transition of a version, stamped later than every other. Raises CannotContinue where the state machine has no such edge."""
        before = version.state
        if after not in TRANSITIONS[before]:
            raise CannotContinue(f"{version.name} version {version.version} is {before}: it cannot become {after}")
        # Clocks are set back at times; the order of handovers must not be.
        at = now if self.newest_at is None else max(now, self.newest_at + timedelta(microseconds=1))
        seq = len(version.transitions) + 1
        return TransitionWrite(version.version, Transition(seq=seq, before=before, after=after, at=at, actor=actor, reason=reason[:REASON_CHARS], **facts))
