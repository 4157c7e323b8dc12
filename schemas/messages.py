"""The base of every message: a frozen pydantic model with a wire name and a version that are written out.

Readers ignore unknown fields, which a newer writer may add; a missing or malformed field is an error for the dead-letter topic.
Within a version fields are only added, with a default.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated, Any, ClassVar, NamedTuple, Self
from uuid import UUID

import pydantic
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from schemas.field_errors import field_errors
from schemas.times import parse_time


def _in_utc(value: Any, read: ValidatorFunctionWrapHandler) -> datetime:
    try:
        at: datetime = read(value)
    except ValidationError as error:
        at = _parsed(value, error)
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("outside_the_calendar", "the instant lies outside the years 1 to 9999 in UTC") from None


def _parsed(value: Any, error: ValidationError) -> datetime:
    """A text that pydantic does not read. Raises pydantic's error for what `parse_time` does not read either."""
    if not isinstance(value, str):
        raise error
    try:
        return parse_time(value)
    except ValueError:
        raise error from None


#: An instant in UTC: what pydantic reads, and what `parse_time` reads. One whose conversion to UTC leaves the years 1 to 9999 is refused.
AwareDatetime = Annotated[pydantic.AwareDatetime, WrapValidator(_in_utc)]

#: Users' and models' text. Limited, so that one record never exceeds the topic's message size.
MAX_TEXT_CHARS = 32_768
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)]
#: Maximum size of a value that is parsed: twice the topics' limit. A broker limits only the compressed batch, and parsed JSON takes up to 500 times its bytes.
MAX_VALUE_BYTES = 2 * 1_048_576
#: A short text that is not empty.
MAX_LABEL_CHARS = 256
Label = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LABEL_CHARS)]
#: A platform's name for a kind of task, such as `movie_tag`.
Domain = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$"), Field(description="the platform's name for a kind of task, such as movie_tag")]
#: Describes the id of a message that a platform makes.
OWN_ID = "made by the platform; the same id and content again is a repeat without effect, other content under the id of an earlier record is refused"
Milliseconds = Annotated[float, Field(ge=0)]

__all__ = [
    "MAX_LABEL_CHARS",
    "OWN_ID",
    "AwareDatetime",
    "Domain",
    "Fingerprint",
    "IdConflict",
    "Label",
    "Malformed",
    "Message",
    "MessageIdentity",
    "Milliseconds",
    "Record",
    "Text",
    "message_type",
]

_TYPES: dict[str, type[Message]] = {}


class Malformed(ValueError):
    """A record that can never be read: not JSON, the wrong shape, or an unknown type. Its text never holds the record's values."""


class Record(BaseModel):
    """A part of a message: frozen, strict about shape, tolerant of unknown fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class MessageIdentity(NamedTuple):
    """What identifies a message on its topic: its own id within its key. So two users' messages with one id are two messages.

    A record's `ce_id` is not used: producers fill it as they like, and may begin their counters again.
    """

    key: bytes
    id: UUID


class Fingerprint(NamedTuple):
    """A message's identity and the digest of its content. A repeat has the same fingerprint as an earlier message of its topic."""

    identity: MessageIdentity
    digest: bytes


class IdConflict(ValueError):
    """A message has the identity of an earlier one and other content. Only its producer can decide which of the two is right."""

    def __init__(self, earlier: object) -> None:
        super().__init__(f"its id is that of an earlier record of its tenant and user, which has other content: {earlier}")


class Message(Record):
    """The value of a record. Subclasses declare their wire name and version: `class Query(Message, wire="retouch.query", version=1)`."""

    wire: ClassVar[str]
    wire_version: ClassVar[int]

    def __init_subclass__(cls, *, wire: str, version: int, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.wire, cls.wire_version = wire, version
        _TYPES[cls.ce_type()] = cls

    @classmethod
    def ce_type(cls) -> str:
        """The CloudEvents `type`, such as `retouch.query.v1`."""
        return f"{cls.wire}.v{cls.wire_version}"

    @property
    def identity(self) -> MessageIdentity | None:
        """None for messages without an own id: the last one of each key counts."""
        return None

    def external_content(self) -> bytes:
        """The part of this message that decides whether two messages have the same content. Spacing and order of the record's JSON do not matter.

        For a message of a producer outside it is the whole message. A message that our processes make returns the content that it is made from: a step
        that runs again makes the same message with other milliseconds or another model's text. Fields that have their default are left out, so that a
        field of a later version changes no digest.
        """
        return self.model_dump_json(exclude_defaults=True).encode()

    def fingerprint(self) -> Fingerprint | None:
        """None without an identity."""
        identity = self.identity
        return identity and Fingerprint(identity, self.content_digest())

    def content_digest(self) -> bytes:
        return blake2b(self.external_content(), digest_size=16).digest()

    def to_bytes(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def from_bytes(cls, value: bytes | None) -> Self:
        """Parse a record's value. Raises Malformed with the fields and what would be right there, never with the values."""
        if value is None:
            raise Malformed(f"{cls.ce_type()}: the record has no value")
        check_size(value, f"{cls.ce_type()}: ")
        try:
            return cls.model_validate_json(value, context={"message": cls})
        except ValidationError as error:
            raise Malformed(f"{cls.ce_type()}: {field_errors(error)}") from None


def check_size(value: bytes, place: str = "") -> None:
    """Raises Malformed for a value that is too large to parse."""
    if len(value) > MAX_VALUE_BYTES:
        raise Malformed(f"{place}the value has {len(value)} bytes, more than {MAX_VALUE_BYTES}")


def message_type(ce_type: str) -> type[Message]:
    """The message class of a CloudEvents type. Raises Malformed if the type is not declared."""
    try:
        return _TYPES[ce_type]
    except KeyError:
        raise Malformed(f"unknown ce_type {ce_type[:80]!r}; known: {', '.join(sorted(_TYPES))}") from None
