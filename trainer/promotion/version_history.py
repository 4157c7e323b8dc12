"""The version histories of all versions, read together: which version is champion, which is challenger, and the state of each. No I/O.

Each version has its own history. A change of champion is one write, into the history of the new champion. So the champion is the version with the newest
transition to champion, even if the former champion's own history does not end yet. The promoter completes that history (`state_machine.settle`).
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
    """One registry write: append this transition to the history of this version."""

    version: str
    transition: Transition


@dataclass(frozen=True)
class VersionHistories:
    """All versions of one model, oldest first, as they were read."""

    versions: tuple[RegisteredVersion, ...]

    @classmethod
    def of(cls, versions: Iterable[RegisteredVersion]) -> VersionHistories:
        """Leaves out versions with an unreadable history: they wait until it is repaired.

        Raises RetryLater if such a version could be champion or challenger: if an alias names it, or the aliases lag behind the histories.
        """
        all_versions = tuple(versions)
        histories = cls(tuple(version for version in all_versions if not version.unreadable))
        for version in all_versions:
            reason = version.unreadable
            if reason and (version.aliases or not histories.champion or Alias.CHAMPION not in histories.champion.aliases):
                raise RetryLater(reason)
        return histories

    def get(self, number: str) -> RegisteredVersion | None:
        return next((version for version in self.versions if version.version == number), None)

    def replacing(self, updated: RegisteredVersion) -> VersionHistories:
        """A copy in which one version is replaced by a newer reading of it."""
        return VersionHistories(tuple(updated if version.version == updated.version else version for version in self.versions))

    def with_aliases(self, targets: Mapping[Alias, RegisteredVersion | None]) -> VersionHistories:
        """A copy with these aliases."""
        return VersionHistories(tuple(replace(version, aliases=tuple(alias for alias in Alias if targets[alias] is version)) for version in self.versions))

    @cached_property
    def handovers(self) -> tuple[tuple[Transition, RegisteredVersion], ...]:
        """Every transition to champion, oldest first."""
        handovers = [(step, version) for version in self.versions for step in version.transitions if step.after is VersionState.CHAMPION]
        return tuple(sorted(handovers, key=lambda handover: (handover[0].at, int(handover[1].version))))

    @property
    def champion(self) -> RegisteredVersion | None:
        return self.handovers[-1][1] if self.handovers else None

    @property
    def challenger(self) -> RegisteredVersion | None:
        """The version in shadow, canary or approval; at most one."""
        return next((version for version in self.versions if self.state(version) in CHALLENGING), None)

    @property
    def experiment(self) -> UUID | None:
        """The experiment of the challenger's stage."""
        return self.challenger.transitions[-1].experiment if self.challenger else None

    @property
    def former(self) -> tuple[RegisteredVersion, ...]:
        """Retired champions, which may serve again, the latest first."""
        numbers = dict.fromkeys(version.version for _, version in reversed(self.handovers))
        return tuple(version for number in numbers if (version := self.get(number)) and self.state(version) is VersionState.RETIRED)

    @cached_property
    def newest_at(self) -> datetime | None:
        return max((step.at for version in self.versions for step in version.transitions), default=None)

    def state(self, version: RegisteredVersion) -> VersionState:
        """The state of a version, derived from all histories together."""
        if version.state is VersionState.CHAMPION and version is not self.champion:
            return VersionState.REJECTED if self.successor(version)[0].rolls_back else VersionState.RETIRED
        return version.state

    def successor(self, version: RegisteredVersion) -> tuple[Transition, RegisteredVersion]:
        """The version that replaced a former champion, with the transition that did."""
        last = max(index for index, (_, champion) in enumerate(self.handovers) if champion is version)
        return self.handovers[last + 1]

    def is_stale(self, version: RegisteredVersion) -> bool:
        """Whether the champion has changed since the version's gate."""
        gated = next((step.at for step in reversed(version.transitions) if step.after is VersionState.GATED), None)
        return gated is not None and bool(self.handovers) and gated < self.handovers[-1][0].at

    def in_state(self, state: VersionState) -> tuple[RegisteredVersion, ...]:
        """Oldest first."""
        return tuple(version for version in self.versions if self.state(version) is state)

    def transition(self, version: RegisteredVersion, after: VersionState, actor: str, reason: str, now: datetime, **facts: Any) -> TransitionWrite:
        """The next transition of a version, with a time later than every other. Raises CannotContinue if the state machine has no such transition."""
        before = version.state
        if after not in TRANSITIONS[before]:
            raise CannotContinue(f"{version.name} version {version.version} is {before}: it cannot become {after}")
        # A clock can be set back; the order of handovers must not change.
        at = now if self.newest_at is None else max(now, self.newest_at + timedelta(microseconds=1))
        seq = len(version.transitions) + 1
        transition = Transition(seq=seq, before=before, after=after, at=at, actor=actor, reason=reason[:REASON_CHARS], **facts)
        return TransitionWrite(version.version, transition)
