"""Stores what the profiles worker has written."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.contexts import Source
from schemas.dead_letters import dead_letter
from schemas.messages import Malformed
from schemas.profiles import ProfileEntry
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import PROFILES
from streams.app.processor import GROUP
from streams.profiles.index import ProfileIndex


class ProfileProcessor:
    name = "profiles"
    topics = (PROFILES.name,)
    batch = 64
    linger_s = 0.02

    def __init__(self, profiles: ProfileIndex) -> None:
        self._profiles = profiles

    async def handle(self, records: Sequence[ConsumedRecord]) -> list[ProducedRecord]:
        """Stores every readable entry. Returns dead letters for the others. Raises RetryLater while the store is away."""
        entries: list[tuple[ProfileEntry, Source]] = []
        dead_letters: list[ProducedRecord] = []
        for record in records:
            try:
                entries.append((record.read(ProfileEntry)[0], record.source))
            except Malformed as error:
                dead_letters.append(dead_letter(record, GROUP, error))
        await self._profiles.put(entries)
        return dead_letters
