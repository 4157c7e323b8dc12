"""Values of records: JSON, Avro and Protobuf of a registry; what is wrong becomes a dead letter."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import fastavro
import pytest
from google.protobuf import descriptor_pb2, message_factory, timestamp_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import DependencyUnavailable, PoisonMessage
from infra.kafka.sources_file import SourceFormat
from schemas.messages import MAX_VALUE_BYTES
from tests.support.schema_registry import framed, serialized
from workers.sources.decoding import Decoder
from workers.sources.schema_registry import RegisteredSchema

SECRET = b"confidential"
Field = descriptor_pb2.FieldDescriptorProto


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


# Protobuf


def field(name: str, number: int, kind: int, *, repeated: bool = False, type_name: str | None = None, **options: Any) -> Any:
    return Field(name=name, number=number, type=kind, label=Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL, type_name=type_name, **options)


def rating_file() -> Any:
    """`message Rating` with a nested `Film`, an enum, an `optional` field, a map and a well-known type."""
    file = descriptor_pb2.FileDescriptorProto(
        name="rating.proto", package="shop", syntax="proto3", dependency=["google/protobuf/timestamp.proto", "user.proto"]
    )
    rating = file.message_type.add(name="Rating")
    rating.field.extend(
        [
            field("user", 1, Field.TYPE_MESSAGE, type_name=".shop.User"),
            field("film", 2, Field.TYPE_MESSAGE, type_name=".shop.Rating.Film"),
            field("stars", 3, Field.TYPE_INT32, proto3_optional=True, oneof_index=0),
            field("kind", 4, Field.TYPE_ENUM, type_name=".shop.Kind"),
            field("tags", 5, Field.TYPE_STRING, repeated=True),
            field("counts", 6, Field.TYPE_MESSAGE, repeated=True, type_name=".shop.Rating.CountsEntry"),
            field("at", 7, Field.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp"),
            field("views", 8, Field.TYPE_UINT64),
        ]
    )
    rating.oneof_decl.add(name="_stars")
    rating.nested_type.add(name="Film").field.append(field("title", 1, Field.TYPE_STRING))
    entry = rating.nested_type.add(name="CountsEntry")
    entry.options.map_entry = True
    entry.field.extend([field("key", 1, Field.TYPE_STRING), field("value", 2, Field.TYPE_INT64)])
    file.enum_type.add(name="Kind").value.extend([descriptor_pb2.EnumValueDescriptorProto(name=name, number=n) for n, name in enumerate(("NEW", "OLD"))])
    return file


def user_file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="user.proto", package="shop", syntax="proto3")
    file.message_type.add(name="User").field.append(field("id", 1, Field.TYPE_INT64))
    return file


def ratings() -> Table:
    user = RegisteredSchema("PROTOBUF", serialized(user_file()))
    return Table({1: RegisteredSchema("PROTOBUF", serialized(rating_file()), (("user.proto", user),)), 2: RegisteredSchema("PROTOBUF", 'syntax = "proto3";')})


def message(name: str) -> Any:
    pool = DescriptorPool()
    for file in (timestamp_pb2.DESCRIPTOR.serialized_pb, user_file().SerializeToString(), rating_file().SerializeToString()):
        pool.AddSerializedFile(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()


def test_protobuf_is_decoded_by_the_registrys_descriptors() -> None:
    rated = message("shop.Rating")
    rated.user.id, rated.stars, rated.kind = 7, 0, 1
    rated.tags.append("a")
    rated.counts["x"] = 5
    rated.at.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
    assert decode(SourceFormat.PROTOBUF, framed(1, b"\0" + rated.SerializeToString()), ratings()) == {
        "user": {"id": 7},
        "film": None,
        "stars": 0,
        "kind": "OLD",
        "tags": ["a"],
        "counts": {"x": 5},
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "views": 0,
    }


def test_the_indexes_before_a_protobuf_value_choose_its_message() -> None:
    film = message("shop.Rating.Film")
    film.title = "Alien"
    first_of_first = b"\x04\x00\x00"
    assert decode(SourceFormat.PROTOBUF, framed(1, first_of_first + film.SerializeToString()), ratings()) == {"title": "Alien"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (framed(1, b""), "form of schema 1"),
        (framed(1, b"\0\xff\xff"), "form of schema 1"),
        (framed(1, b"\x02\x08"), "names no message of its schema"),
        (framed(1, b"\x01"), "names no message of its schema"),
        (framed(1, b"\xff" * 12), "names no message of its schema"),
        (framed(2, b"\0"), "schema 2 cannot be used: the registry returns no descriptor for format=serialized"),
    ],
)
def test_what_is_no_protobuf_is_refused(value: bytes, reason: str) -> None:
    with pytest.raises(PoisonMessage, match=reason):
        decode(SourceFormat.PROTOBUF, value, ratings())


def test_a_protobuf_schema_whose_import_is_missing_is_refused() -> None:
    with pytest.raises(PoisonMessage, match=r"it imports user\.proto, which is none of its references"):
        decode(SourceFormat.PROTOBUF, framed(1, b"\0"), Table({1: RegisteredSchema("PROTOBUF", serialized(rating_file()))}))


@given(st.binary(max_size=200))
def test_any_bytes_are_protobuf_or_refused(payload: bytes) -> None:
    try:
        decode(SourceFormat.PROTOBUF, framed(1, payload), ratings())
    except PoisonMessage:
        return
