"""Values of records: JSON, Avro and Protobuf of a registry; what is wrong becomes a dead letter."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import fastavro
import pytest
from google.protobuf import message_factory
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import DependencyUnavailable, PoisonMessage
from infra.kafka.sources_file import SourceFormat
from schemas.messages import MAX_VALUE_BYTES
from tests.support.schema_registry import framed
from workers.sources.decoding import REFUSED_FOR_S, Decoder
from workers.sources.protobuf import compiled, protobuf_decoder
from workers.sources.schema_registry import RegisteredSchema

SECRET = b"confidential"


class Table:
    """Schemas by id. The ids of `away` cannot be read now."""

    def __init__(self, schemas: dict[int, RegisteredSchema]) -> None:
        self.schemas, self.away, self.asked = schemas, set[int](), list[int]()

    async def schema(self, id: int) -> RegisteredSchema:
        self.asked.append(id)
        await asyncio.sleep(0)
        if id in self.away:
            raise DependencyUnavailable("away")
        if id not in self.schemas:
            raise PoisonMessage(f"the schema registry has no schema {id}")
        return self.schemas[id]


def decode(format: SourceFormat, value: bytes, schemas: Table | None = None) -> Any:
    return asyncio.run(Decoder(schemas).decode(format, value))


@pytest.mark.parametrize("value", [b'{"a": [1, 2.5, null]}', b'\0\0\0\0\x07{"a": [1, 2.5, null]}'])
def test_json_is_read_also_behind_the_prefix_of_a_registry(value: bytes) -> None:
    assert decode(SourceFormat.JSON, value) == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "no JSON: EOF"),
        (b'{"a": ' + SECRET, "no JSON: expected value"),
        (b'{"a": "\xff"}', "no JSON: invalid unicode"),
        (b'"\\ud800"', "no JSON"),
        (b'{"a": NaN}', "no JSON"),
        (b"[" * 100_000, "recursion limit"),
        (b'"' + b"a" * MAX_VALUE_BYTES + b'"', f"more than {MAX_VALUE_BYTES}"),
    ],
)
def test_what_is_no_json_is_refused(value: bytes, reason: str) -> None:
    with pytest.raises(PoisonMessage, match=reason) as refused:
        decode(SourceFormat.JSON, value)
    assert SECRET.decode() not in str(refused.value)


# Avro

RATING = {
    "type": "record",
    "name": "Rating",
    "namespace": "shop",
    "fields": [
        {"name": "user_id", "type": "long"},
        {"name": "film", "type": "string"},
        {"name": "stars", "type": ["null", "int"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["NEW", "OLD"]}},
        {"name": "tags", "type": {"type": "array", "items": {"type": "map", "values": "string"}}},
    ],
}
RATED = {"user_id": 7, "film": "Alien", "stars": None, "at": datetime(2026, 1, 1, tzinfo=UTC), "kind": "OLD", "tags": [{"a": "b"}]}


def avro(schema: Any, references: Sequence[tuple[str, RegisteredSchema]] = ()) -> RegisteredSchema:
    return RegisteredSchema("AVRO", json.dumps(schema), tuple(references))


def encoded(schema: Any, value: object) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), value)
    return stream.getvalue()


def test_avro_is_decoded_by_the_schema_that_wrote_it() -> None:
    assert decode(SourceFormat.AVRO, framed(5, encoded(RATING, RATED)), Table({5: avro(RATING)})) == RATED


def test_an_avro_schema_may_refer_to_others() -> None:
    owner = {"type": "record", "name": "Owner", "namespace": "shop", "fields": [{"name": "name", "type": "string"}]}
    both = {"type": "record", "name": "Both", "namespace": "shop", "fields": [{"name": "a", "type": "shop.Owner"}, {"name": "b", "type": "shop.Pair"}]}
    pair = {"type": "record", "name": "Pair", "namespace": "shop", "fields": [{"name": "owner", "type": "shop.Owner"}]}
    of_owner = ("shop.Owner", avro(owner))
    schemas = Table({1: avro(both, [of_owner, ("shop.Pair", avro(pair, [of_owner]))])})
    assert decode(SourceFormat.AVRO, framed(1, b"\x06ann\x06bob"), schemas) == {"a": {"name": "ann"}, "b": {"owner": {"name": "bob"}}}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "no avro of a schema registry"),
        (b'{"a": 1}', "no avro of a schema registry, which begins with a zero byte"),
        (framed(9, b""), "has no schema 9"),
        (framed(1, b""), "form of schema 1"),
        (framed(1, b"\x18confid"), "form of schema 1"),
        (framed(1, b"\x04\xff\xfe"), "form of schema 1"),
        (framed(1, b"\x02a" + SECRET), "more bytes than its schema"),
        (framed(2, b"x"), "schema 2 is Json, and the source reads avro"),
        (framed(3, b"x"), "schema 3 cannot be used"),
        (framed(4, b"\x02" * 100_000), "schema 4 cannot be used: type Link holds itself"),
        (framed(5, b"\x80\xf0\x88\xd4\xb1\x02"), "schema 5 cannot be used: the items of an array are empty"),
    ],
)
def test_what_is_no_avro_is_refused(value: bytes, reason: str) -> None:
    schemas = Table(
        {
            1: avro("string"),
            2: RegisteredSchema("JSON", "{}"),
            3: RegisteredSchema("AVRO", '{"type": "nonsense"}'),
            4: avro({"type": "record", "name": "Link", "fields": [{"name": "next", "type": ["null", "Link"]}]}),
            5: avro({"type": "array", "items": {"type": "record", "name": "E", "fields": [{"name": "n", "type": "null"}]}}),
        }
    )
    with pytest.raises(PoisonMessage, match=reason) as refused:
        decode(SourceFormat.AVRO, value, schemas)
    assert SECRET.decode() not in str(refused.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_avro_or_refused(payload: bytes) -> None:
    try:
        decode(SourceFormat.AVRO, framed(1, payload), Table({1: avro(RATING)}))
    except PoisonMessage:
        return


def test_a_schema_is_read_once_for_many_records_and_again_after_a_failure() -> None:
    async def all_decoded() -> None:
        schemas = Table({1: avro("string")})
        decoder = Decoder(schemas)
        value = framed(1, b"\x02a")
        schemas.away = {1}
        for each in await asyncio.gather(*(decoder.decode(SourceFormat.AVRO, value) for _ in range(5)), return_exceptions=True):
            assert isinstance(each, DependencyUnavailable)
        schemas.away = set()
        assert await asyncio.gather(*(decoder.decode(SourceFormat.AVRO, value) for _ in range(5))) == ["a"] * 5
        assert await decoder.decode(SourceFormat.AVRO, value) == "a"
        assert schemas.asked == [1, 1]

    asyncio.run(all_decoded())


def test_a_schema_that_is_refused_is_asked_for_again_after_a_minute() -> None:
    async def all_refused() -> None:
        schemas, clock = Table({}), [0.0]
        decoder = Decoder(schemas, lambda: clock[0])
        for _ in range(3):
            with pytest.raises(PoisonMessage, match="has no schema 1"):
                await decoder.decode(SourceFormat.AVRO, framed(1, b"\x02a"))
        assert schemas.asked == [1]
        schemas.schemas[1] = avro("string")
        clock[0] = REFUSED_FOR_S + 1
        assert await decoder.decode(SourceFormat.AVRO, framed(1, b"\x02a")) == "a"

    asyncio.run(all_refused())


# Protobuf


USER_FILE = 'syntax = "proto3"; package shop; message User { int64 id = 1; }'
RATING_FILE = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "shop/user.proto";
message Rating {
  User user = 1;
  Film film = 2;
  optional int32 stars = 3;
  Kind kind = 4;
  repeated string tags = 5;
  map<string, int64> counts = 6;
  google.protobuf.Timestamp at = 7;
  uint64 views = 8;
  google.protobuf.StringValue note = 9;
  message Film { string title = 1; }
}
enum Kind { NEW = 0; OLD = 1; }
"""
RATING_SCHEMA = RegisteredSchema("PROTOBUF", RATING_FILE, (("shop/user.proto", RegisteredSchema("PROTOBUF", USER_FILE)),))


class Ratings:
    """Decodes with RATING_SCHEMA as schema 1, which is compiled once."""

    def __init__(self) -> None:
        self._decode = protobuf_decoder(RATING_SCHEMA)
        self._pool = compiled(RATING_SCHEMA)

    def decode(self, payload: bytes) -> Any:
        try:
            return self._decode(payload)
        except DecodeError:
            raise PoisonMessage("form of schema") from None

    def message(self, name: str) -> Any:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))()


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    return Ratings()


def test_protobuf_is_decoded_by_the_schemas_text(ratings: Ratings) -> None:
    rated = ratings.message("shop.Rating")
    rated.user.id, rated.stars, rated.kind, rated.note.value = 7, 0, 1, "x"
    rated.tags.append("a")
    rated.counts["x"] = 5
    rated.at.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
    value = framed(1, b"\0" + rated.SerializeToString())
    assert decode(SourceFormat.PROTOBUF, value, Table({1: RATING_SCHEMA})) == {
        "user": {"id": 7},
        "film": None,
        "stars": 0,
        "kind": "OLD",
        "tags": ["a"],
        "counts": {"x": 5},
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "views": 0,
        "note": "x",
    }


def test_the_indexes_before_a_protobuf_value_choose_its_message(ratings: Ratings) -> None:
    film = ratings.message("shop.Rating.Film")
    film.title = "Alien"
    first_of_first = b"\x04\x00\x00"
    assert ratings.decode(first_of_first + film.SerializeToString()) == {"title": "Alien"}


@pytest.mark.parametrize("payload", [b"\x02\x08", b"\x01", b"\xff" * 12])
def test_indexes_that_name_no_message_are_refused(ratings: Ratings, payload: bytes) -> None:
    with pytest.raises(PoisonMessage, match="names no message of its schema"):
        ratings.decode(payload)


def test_bytes_that_are_no_protobuf_are_refused() -> None:
    schemas = Table({1: RegisteredSchema("PROTOBUF", USER_FILE)})
    for payload in (b"", b"\0\xff\xff"):
        with pytest.raises(PoisonMessage, match="form of schema 1"):
            decode(SourceFormat.PROTOBUF, framed(1, payload), schemas)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (RegisteredSchema("PROTOBUF", "message {"), r"schema 1 cannot be used: protoc refuses it: retouch-record\.proto:1:9: Expected message name\."),
        (RegisteredSchema("PROTOBUF", RATING_FILE), r"protoc refuses it: shop/user\.proto: File not found\."),
        (RegisteredSchema("PROTOBUF", USER_FILE, (("../a.proto", RegisteredSchema("PROTOBUF", USER_FILE)),)), "is no path of a .proto file"),
        (RegisteredSchema("PROTOBUF", USER_FILE, (("/tmp/a.proto", RegisteredSchema("PROTOBUF", USER_FILE)),)), "is no path of a .proto file"),
        (RegisteredSchema("PROTOBUF", USER_FILE, (("grpc_tools/protoc.py", RegisteredSchema("PROTOBUF", "1/0")),)), "is no path of a .proto file"),
    ],
)
def test_a_protobuf_schema_that_does_not_compile_is_refused(schema: RegisteredSchema, reason: str) -> None:
    with pytest.raises(PoisonMessage, match=reason):
        decode(SourceFormat.PROTOBUF, framed(1, b"\0"), Table({1: schema}))


@given(payload=st.binary(max_size=200))
def test_any_bytes_are_protobuf_or_refused(ratings: Ratings, payload: bytes) -> None:
    with suppress(PoisonMessage, IndexError):  # the decoder's caller takes any error
        ratings.decode(payload)
