"""The sizes of the index that `retouch bench growth` measures, and whose items it holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from bench.ingest.texts import DOMAIN, FIRST_AT, TENANT
from schemas.interactions import Interaction

LEAST_ITEMS = 10_000
HEAVY_USER = "heavy"


@dataclass(frozen=True)
class GrowthPlan:
    """The index grows by users: each has `per_user` items at every size, and the heavy user, who is among the first, keeps `heavy` items."""

    items: int = 1_000_000
    batch: int = 256  # points in one write
    searches: int = 2_000  # of users of average history, at each size
    heavy_searches: int = 500
    limit: int = 6  # items of a search

    @property
    def smallest(self) -> int:
        return self.items // 100

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.smallest, self.items // 10, self.items

    @property
    def per_user(self) -> int:
        return max(5, min(100, self.smallest // 50))

    @property
    def heavy(self) -> int:
        return self.smallest // 5

    @property
    def block(self) -> int:
        """Items of users who write at the same time. The smallest size has one block and the heavy user's items."""
        return self.smallest - self.heavy

    @property
    def users_of_block(self) -> int:
        return self.block // self.per_user

    def window(self, size: int) -> int:
        """How many of the last events before `size` are measured: a tenth, but at least half of the smallest size."""
        return max(self.smallest // 2, size // 10)

    def user(self, number: int) -> str:
        """The user of an item: first the heavy one, then the users of each block in turn."""
        if number < self.heavy:
            return HEAVY_USER
        block, at = divmod(number - self.heavy, self.block)
        return f"u{block * self.users_of_block + at % self.users_of_block:06d}"

    def users(self, size: int) -> list[str]:
        """The users of average history who have all their items when the index has `size`."""
        return [f"u{number:06d}" for number in range((size - self.heavy) // self.block * self.users_of_block)]

    def interactions(self, first: int, last: int) -> Iterator[Interaction]:
        """The items from number `first` to before `last`, a second apart."""
        for number in range(first, last):
            yield Interaction.observed(
                tenant=TENANT,
                user=self.user(number),
                source_id=number,
                domain=DOMAIN,
                content="",
                response=f"the answer that the user wrote to question {number} of this run",
                occurred_at=FIRST_AT + timedelta(seconds=number),
            )
