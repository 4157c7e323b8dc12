"""Decodes Protobuf by the descriptors that the registry returns for `format=serialized`, so no compiler is needed.

Fields have their names in the schema. A message or an `optional` field that is not set is null; any other field has its default. Enums are their names.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from datetime import UTC
from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    json_format,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor_pool import DescriptorPool

from infra.errors import PoisonMessage
from workers.sources.schema_registry import RegisteredSchema

#: Files that every schema may import without a reference.
_WELL_KNOWN = {
    module.DESCRIPTOR.name: module.DESCRIPTOR
    for module in (any_pb2, descriptor_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
}
#: Of the records' message, which no schema imports.
_MAIN = "retouch-record.proto"
MAX_INDEXES = 100


def protobuf_decoder(schema: RegisteredSchema) -> Callable[[bytes], object]:
    """Raises PoisonMessage, or an error of protobuf, for a schema that cannot be used."""
    pool = DescriptorPool()
    _add(pool, _MAIN, schema, set())
    file = pool.FindFileByName(_MAIN)
    messages = list(file.message_types_by_name.values())

    def decode(value: bytes) -> object:
        indexes, begin = _message_indexes(value)
        descriptor = _message_type(messages, indexes)
        return _plain(message_factory.GetMessageClass(descriptor).FromString(value[begin:]))

    return decode


def _add(pool: Any, name: str, schema: RegisteredSchema, added: set[str]) -> None:
    if name in added:
        return
    added.add(name)
    for referred_name, referred in schema.references:
        _add(pool, referred_name, referred, added)
    try:
        file = descriptor_pb2.FileDescriptorProto.FromString(b64decode(schema.text, validate=True))
    except Exception:
        raise PoisonMessage("the registry returns no descriptor for format=serialized") from None
    file.name = name
    for imported in file.dependency:
        if imported not in added:
            if imported not in _WELL_KNOWN:
                raise PoisonMessage(f"it imports {imported}, which is none of its references")
            _add_well_known(pool, imported, added)
    pool.AddSerializedFile(file.SerializeToString())


def _add_well_known(pool: Any, name: str, added: set[str]) -> None:
    added.add(name)
    pool.AddSerializedFile(_WELL_KNOWN[name].serialized_pb)


def _message_indexes(value: bytes) -> tuple[list[int], int]:
    """Which message of the schema the value is, as positions from the outermost, and where its bytes begin. One zero byte stands for the first message."""
    count, at = _varint(value, 0)
    if not 0 <= count <= MAX_INDEXES:
        raise PoisonMessage("its value names no message of its schema")
    indexes = []
    for _ in range(count):
        index, at = _varint(value, at)
        indexes.append(index)
    return indexes or [0], at


def _varint(value: bytes, at: int) -> tuple[int, int]:
    """A zigzag number, and where the next one begins."""
    result = shift = 0
    while shift < 64:
        byte = value[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (result >> 1) ^ -(result & 1), at
        shift += 7
    raise PoisonMessage("its value names no message of its schema")


def _message_type(messages: list[Any], indexes: list[int]) -> Any:
    found = None
    for index in indexes:
        if not 0 <= index < len(messages):
            raise PoisonMessage("its value names no message of its schema")
        found = messages[index]
        messages = list(found.nested_types)
    return found


def _plain(message: Any) -> Any:
    """Protobuf's parser bounds the depth."""
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Timestamp":
        return message.ToDatetime(tzinfo=UTC)
    if name == "google.protobuf.Duration":
        return message.ToTimedelta()
    if message.DESCRIPTOR.file.name == "google/protobuf/wrappers.proto":
        return message.value
    if name.startswith("google.protobuf."):
        return json_format.MessageToDict(message)
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Any, field: Any) -> Any:
    if field.is_repeated:
        values = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            kind = field.message_type.fields_by_name["value"]
            return {str(key): _value(kind, values[key]) for key in values}
        return [_value(field, each) for each in values]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(field, getattr(message, field.name))


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return _plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return value
