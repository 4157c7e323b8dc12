"""Version slots: the places for versions in an engine's memory, and which of them holds the champion."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from workers.serving.engines.backend import Backend


@dataclass(frozen=True)
class VersionCheckpoint:
    """A version, its folder and its canary prompts."""

    model: ModelVersion
    checkpoint: Path
    canary_prompts: tuple[CanaryPrompt, ...] = ()


@dataclass(eq=False)
class VersionSlot:
    backend: Backend
    loaded: VersionCheckpoint | None = None  # the version that can answer; None while the slot is empty or being loaded
    running: set[int] = field(default_factory=set)  # ids of requests and checks
    last_needed: int = 0  # orders the slots by the time of their last load or end as champion


class VersionSlots:
    """The slots of one engine. The engine's thread changes them; any thread may read `champion`, `loaded` and `next_slot`."""

    def __init__(self) -> None:
        self._slots: list[VersionSlot] = []
        self._champion: VersionSlot
        self._clock = itertools.count(1)

    def __iter__(self) -> Iterator[VersionSlot]:
        return iter(list(self._slots))

    @property
    def champion(self) -> VersionSlot:
        return self._champion

    @property
    def loaded(self) -> tuple[ModelVersion, ...]:
        return tuple(version.model for slot in self if (version := slot.loaded))

    @property
    def next_slot(self) -> VersionSlot:
        """The slot for the next version: an empty one, else the one needed least recently; the champion's only if there is no other."""
        others = [slot for slot in self if slot is not self._champion]
        return min(others, key=lambda slot: (slot.loaded is not None, slot.last_needed), default=self._champion)

    def find(self, version: str | None) -> VersionSlot | None:
        """The slot of a loaded version; of the champion for None."""
        if version is None:
            return self._champion
        return next((slot for slot in self if slot.loaded and slot.loaded.model.version == version), None)

    def add(self, backend: Backend) -> VersionSlot:
        """The first slot is the champion's."""
        slot = VersionSlot(backend)
        if not self._slots:
            self._champion = slot
        self._slots.append(slot)
        return slot

    def remove(self, slot: VersionSlot) -> None:
        self._slots.remove(slot)

    def fill(self, slot: VersionSlot, version: VersionCheckpoint) -> None:
        slot.loaded, slot.last_needed = version, next(self._clock)

    def set_champion(self, slot: VersionSlot) -> None:
        """The previous champion counts as needed until now."""
        self._champion.last_needed = next(self._clock)
        self._champion, slot.last_needed = slot, next(self._clock)
