"""The filter on tenant, user, domain and time that every search of the history index carries (docs/rules.md, 2).

An index takes a `Scope`, and only a `Scope` makes filters, so no search can leave its user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

#: Payload fields that filters use. Adapters index them.
TENANT, USER, DOMAIN, OCCURRED_AT = "tenant", "user", "domain", "occurred_at_us"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class IndexFilter:
    """Points match if every field in `equal` is equal and `occurred_at` is before `before_us` (None: at any time). Only `Scope` makes one."""

    equal: Mapping[str, str]
    before_us: int | None


@dataclass(frozen=True)
class Scope:
    """One user of one tenant: what a search may see."""

    tenant: str
    user: str

    def everything(self) -> IndexFilter:
        """All items of the user, of all domains and times."""
        return IndexFilter({TENANT: self.tenant, USER: self.user}, None)

    def before(self, asked_at: datetime, domain: str) -> IndexFilter:
        """The user's items in `domain` strictly before `asked_at`."""
        return IndexFilter({TENANT: self.tenant, USER: self.user, DOMAIN: domain}, microseconds(asked_at))


def microseconds(at: datetime) -> int:
    """Whole microseconds since 1970, exact as a double until the year 2255."""
    return (at - EPOCH) // timedelta(microseconds=1)
