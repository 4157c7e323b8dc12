"""Decodes Protobuf by the text of its schema, which protoc compiles: no other form of it is the same in all registries (docs/decisions/0007).

Fields have their names in the schema. A message or an `optional` field that is not set is null; any other field has its default. Enums are their names.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool

from infra.errors import PoisonMessage
from workers.sources.schema_registry import RegisteredSchema

#: The file of the records' message, which no schema imports.
MAIN = "retouch-record.proto"
#: A name under which another file imports this one: below the folder, and nothing that Python could run.
_IMPORTED = re.compile(r"(?!/|.*\.\.)[\w./-]+\.proto")
#: In protoc's output, which has other lines too.
_PROBLEM = re.compile(r"^\S+\.proto:.*", re.MULTILINE)
#: protoc takes 0.2 s on an idle core.
COMPILE_WITHIN_S = 60.0
MAX_INDEXES = 100


def protobuf_decoder(schema: RegisteredSchema) -> Callable[[bytes], object]:
    """Blocks while protoc runs. Raises PoisonMessage, or an error of protobuf, for a schema that cannot be used."""
    messages = list(compiled(schema).FindFileByName(MAIN).message_types_by_name.values())

    def decode(value: bytes) -> object:
        indexes, begin = _message_indexes(value)
        descriptor = _message_type(messages, indexes)
        return _plain(message_factory.GetMessageClass(descriptor).FromString(value[begin:]))

    return decode


def compiled(schema: RegisteredSchema) -> Any:
    """A descriptor pool with the schema's file MAIN and everything that it imports. Raises PoisonMessage for a schema that does not compile."""
    with TemporaryDirectory(prefix="retouch-protoc-") as folder:
        for name, text in _files(MAIN, schema):
            if not _IMPORTED.fullmatch(name):
                raise PoisonMessage(f"the name of its reference {ascii(name)[:80]} is no path of a .proto file")
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        out = Path(folder, "out")
        # -I of Python: the folder's files are never modules.
        command = [sys.executable, "-I", "-m", "grpc_tools.protoc", f"-I{folder}", "--include_imports", f"--descriptor_set_out={out}", MAIN]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMPILE_WITHIN_S, check=False)
        if run.returncode:
            problem = _PROBLEM.search(run.stderr.replace(f"{folder}/", ""))
            raise PoisonMessage(f"protoc refuses it: {problem[0][:200] if problem else f'exit code {run.returncode}'}")
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _files(name: str, schema: RegisteredSchema) -> Iterator[tuple[str, str]]:
    for referred_name, referred in schema.references:
        yield from _files(referred_name, referred)
    yield name, schema.text


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
        # As Confluent's own serializer counts, which does not see the types that protoc makes of maps.
        messages = [nested for nested in found.nested_types if not nested.GetOptions().map_entry]
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
