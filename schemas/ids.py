"""Ids of tenants and users, record keys, derived ids, and the hash that assigns users to shares.

The id of an effect is a UUIDv5 of its cause. A record that is handled twice produces the same ids, so readers can drop the repeat.
"""

from __future__ import annotations

import hashlib
from typing import Annotated
from uuid import UUID, uuid5

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

#: Namespace of every derived id; written out because ids are part of the wire contract.
NAMESPACE = UUID("6f7d1a52-4d0e-5b0f-9f0e-2f1f4c1b7a11")


def _checked(value: str) -> str:
    """Refuses control characters, surrounding blanks and the key's separator, which could forge a key, a filter or a log line."""
    if value != value.strip() or not value.isprintable() or "/" in value:
        raise PydanticCustomError("bad_name", "must be printable, without '/' and without blanks around it")
    return value


#: For JSON Schema, where no pattern can say what is printable: `_checked` refuses some more.
_PATTERN = r"^[^/\s]([^/]*[^/\s])?$"
#: A tenant or user id: 1 to 128 printable characters, no `/` (it separates the two in a record key).
Identifier = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128, strict=True),
    AfterValidator(_checked),
    Field(description="printable characters, without `/` and without blanks around them", json_schema_extra={"pattern": _PATTERN}),
]


def record_key(tenant: str, user: str) -> bytes:
    """The Kafka key of everything that belongs to one user: `tenant/user` in UTF-8."""
    return f"{tenant}/{user}".encode()


def derive(kind: str, *causes: object) -> UUID:
    """UUIDv5 of `kind` and the causes' text, in order (RFC 9562, section 5.5)."""
    return uuid5(NAMESPACE, "\x1f".join([kind, *map(str, causes)]))


def bucket(tenant: str, user: str, salt: str) -> float:
    """A user's fixed position in [0, 1): the share of users below x is x. Each `salt` gives other positions."""
    digest = hashlib.sha256(f"{salt}\x1f{tenant}\x1f{user}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def is_held_out(tenant: str, user: str, share: float) -> bool:
    """Whether this user judges models and never trains them (docs/rules.md, 6)."""
    return bucket(tenant, user, "holdout") < share
