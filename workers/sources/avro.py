"""Decodes Avro by fastavro. Logical types become times, decimals and UUIDs."""

from __future__ import annotations

import json
from collections.abc import Callable, Set
from io import BytesIO
from typing import Any

import fastavro

from infra.errors import PoisonMessage
from workers.sources.schema_registry import RegisteredSchema


def avro_decoder(schema: RegisteredSchema) -> Callable[[bytes], object]:
    """Raises PoisonMessage, or an error of fastavro, for a schema that cannot be used."""
    named: dict[str, Any] = {}
    for _, referred in schema.references:
        _parse(referred, named)
    parsed = _parse(schema, named)
    _check(parsed, named, frozenset())

    def decode(value: bytes) -> object:
        stream = BytesIO(value)
        result = fastavro.schemaless_reader(stream, parsed, None)
        if stream.read(1):
            raise PoisonMessage("its value has more bytes than its schema describes")
        return result

    return decode


def _parse(schema: RegisteredSchema, named: dict[str, Any]) -> Any:
    """Adds the types that the schema names to `named`."""
    for _, referred in schema.references:
        _parse(referred, named)
    parsed = json.loads(schema.text)
    return fastavro.parse_schema(parsed, named_schemas=named, _force=True) if not _is_known(parsed, named) else parsed


def _is_known(schema: Any, named: dict[str, Any]) -> bool:
    """Whether another schema referred to this one before."""
    if not isinstance(schema, dict) or "name" not in schema:
        return False
    full = schema["name"] if "." in schema["name"] or not schema.get("namespace") else f"{schema['namespace']}.{schema['name']}"
    return full in named


def _check(schema: Any, named: dict[str, Any], inside: Set[str]) -> bool:
    """Whether a value takes no bytes. Raises PoisonMessage for schemas that could crash or fill a reader.

    fastavro has no bound for the depth of a type that holds itself, and a list of empty values may be endless in a few bytes.
    """
    if isinstance(schema, list):
        for each in schema:
            _check(each, named, inside)
        return False
    if isinstance(schema, str):
        if schema not in named:
            return schema == "null"
        schema = named[schema]
    kind = schema["type"]
    if kind in ("record", "error"):
        if schema["name"] in inside:
            raise PoisonMessage(f"type {schema['name']} holds itself, which is not read")
        are_empty = [_check(field["type"], named, inside | {schema["name"]}) for field in schema["fields"]]
        return all(are_empty)
    if kind == "array" and _check(schema["items"], named, inside):
        raise PoisonMessage("the items of an array are empty, which is not read")
    if kind == "map":
        _check(schema["values"], named, inside)
    if kind == "fixed":
        return bool(schema["size"] == 0)
    return _check(kind, named, inside) if isinstance(kind, dict | list) or (isinstance(kind, str) and kind in named) else bool(kind == "null")
