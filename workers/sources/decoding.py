"""Decodes a record's value: JSON, or Avro and Protobuf by the schema whose id the value begins with. A record is decoded by the schema that wrote it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pydantic_core import from_json

from infra.errors import PoisonMessage
from infra.kafka.sources_file import SourceFormat
from schemas.messages import Malformed, check_size
from workers.sources.schema_registry import RegisteredSchema

MAGIC = b"\0"
#: The magic byte and the schema's id.
PREFIX_BYTES = 5
#: Schemas whose decoders are kept. A topic has a few; a producer that registers one for each record would fill the memory.
MAX_SCHEMAS = 1_000

#: How long a schema stays refused: a topic may hold many records of one that is unknown or does not compile.
REFUSED_FOR_S = 60.0

Decode = Callable[[bytes], object]


@dataclass(frozen=True)
class _Known:
    """A schema's decoder, or why there is none `until` that time."""

    decode: Decode | None
    refusal: str = ""
    until: float = math.inf


class SchemaSource(Protocol):
    async def schema(self, id: int) -> RegisteredSchema: ...


class Decoder:
    """`schemas` None: JSON only. On one event loop.

    Raises PoisonMessage for a value that cannot be decoded, and what `schemas` raises.
    """

    def __init__(self, schemas: SchemaSource | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._schemas, self._now = schemas, now
        self._known: dict[tuple[SourceFormat, int], asyncio.Future[_Known]] = {}

    async def decode(self, format: SourceFormat, value: bytes) -> object:
        try:
            check_size(value)
        except Malformed as error:
            raise PoisonMessage(str(error)) from None
        if format is SourceFormat.JSON:
            return decode_json(value)
        if len(value) < PREFIX_BYTES or not value.startswith(MAGIC):
            raise PoisonMessage(f"its value is no {format} of a schema registry, which begins with a zero byte and the schema's id in four bytes")
        id = int.from_bytes(value[1:PREFIX_BYTES])
        decode = await self._decoder(format, id)
        try:
            return decode(value[PREFIX_BYTES:])
        except PoisonMessage:
            raise
        except Exception as error:  # the decoders raise errors of many kinds for wrong bytes, whose texts may hold them
            raise PoisonMessage(f"its value does not have the form of schema {id} ({type(error).__name__})") from None

    async def _decoder(self, format: SourceFormat, id: int) -> Decode:
        """Each schema is read and compiled once, however many records wait for it. A registry that is away is asked again by the next attempt."""
        key = (format, id)
        known = self._known.get(key)
        if known is None or (known.done() and (known.cancelled() or known.exception() or known.result().until < self._now())):
            known = self._known[key] = asyncio.ensure_future(self._read(format, id))
            if len(self._known) > MAX_SCHEMAS:
                del self._known[next(iter(self._known))]
        found = await asyncio.shield(known)
        if found.decode is None:
            raise PoisonMessage(found.refusal)
        return found.decode

    async def _read(self, format: SourceFormat, id: int) -> _Known:
        try:
            return _Known(await self._compiled(format, id))
        except PoisonMessage as error:
            return _Known(None, str(error), self._now() + REFUSED_FOR_S)

    async def _compiled(self, format: SourceFormat, id: int) -> Decode:
        assert self._schemas is not None  # the service asks for the registry's URL
        schema = await self._schemas.schema(id)
        if schema.kind != format.upper():
            raise PoisonMessage(f"schema {id} is {schema.kind.capitalize()[:40]}, and the source reads {format}")
        try:
            if format is SourceFormat.AVRO:
                from workers.sources.avro import avro_decoder

                return avro_decoder(schema)
            from workers.sources.protobuf import protobuf_decoder

            return await asyncio.to_thread(protobuf_decoder, schema)  # it runs a compiler
        except PoisonMessage as error:
            raise PoisonMessage(f"schema {id} cannot be used: {error}") from None
        except Exception as error:
            raise PoisonMessage(f"schema {id} cannot be used ({type(error).__name__})") from error


def decode_json(value: bytes) -> object:
    """JSON in UTF-8, also behind the prefix of a schema registry. NaN and infinities are refused."""
    text = value[PREFIX_BYTES:] if value.startswith(MAGIC) else value
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise PoisonMessage(f"its value is no JSON: {error}") from None
