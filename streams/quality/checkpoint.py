"""Where a book is opened again: the offset from which its live figures can be made again, and what must be known beside it.

Sums are not stored. What is committed for each topic is not how far it was read but the *low-water* offset, the first whose record live figures still rest
on; whoever opens the partition next reads from there and comes to the same sums. The commit's metadata says the rest.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field, ValidationError

from schemas.messages import Record

#: Experiments that are over and still named, so that a straggler cannot begin one anew. The broker takes 4,096 bytes of metadata.
ENDED = 24


class Mark(Record):
    """Of one topic and partition. Times are seconds since 1970 by the records' own timestamps."""

    read_to: Annotated[int, Field(ge=0)] = 0  # figures that were made of less have been told already: nothing is told before this is reached
    released: float = 0.0  # windows that began before are final
    clock: float = 0.0  # of the newest record
    live: tuple[UUID, ...] = ()  # experiments whose records are read again
    ended: tuple[UUID, ...] = ()  # experiments that count no further

    @classmethod
    def of(cls, metadata: str) -> Mark:
        """What was committed; a mark without content where it is none of ours, as where there is none yet."""
        try:
            return cls.model_validate_json(metadata)
        except ValidationError:
            return cls()

    def torn(self) -> Mark:
        """The mark of a partition whose oldest needed records are gone: what can no longer be made whole is left as it was told last."""
        return self.model_copy(update={"released": max(self.released, self.clock), "live": (), "ended": (*self.ended, *self.live)[-ENDED:]})
