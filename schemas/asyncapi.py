"""The contract with a platform as an AsyncAPI 3 document: topics, keys, headers, messages with their JSON Schemas, and an example of each.

It is of Retouch as the application: it receives what platforms write, and sends what they read. `retouch schemas export --out docs/contract` writes it, and a
test compares those files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from schemas.envelope import STRUCTURED, envelope_headers
from schemas.messages import Message
from schemas.topics import TOPICS, Topic

#: One message of each type and version.
SAMPLES = Path(__file__).parent / "samples"
PLATFORM = "platform"
#: A refused record lies on the dead-letter topic of its topic, with the reason in its headers.
DESCRIPTION = f"""Retouch personalizes the answers of any language model. A platform writes interactions, queries and feedback, and reads responses.

Records are CloudEvents 1.0, in binary mode as described here; the structured mode ({STRUCTURED}, the message under `data`) is read too.
The key is `tenant/user` in UTF-8, and all records of a user lie on the partition that the hash of Kafka's Java client chooses for it (murmur2). It is the
default of Java, of kafka-python and of kafkajs 2; librdkafka and what is built on it need `partitioner=murmur2_random`. Records of the platform
on other partitions, or without a key, are forwarded to the right one, with the header `retouch_forwarded-from`.
A repeated record (same id, same content) changes nothing. Fields that a reader does not know are ignored."""


def files(version: str) -> dict[str, str]:
    """The contract's files by name: the AsyncAPI document, and for each message a JSON Schema that needs no other file."""
    contents = {"asyncapi.json": document(version)}
    contents |= {f"{topic.message.ce_type()}.schema.json": topic.message.model_json_schema(mode="validation") for topic in TOPICS}
    return {name: json.dumps(content, indent=1, ensure_ascii=False) + "\n" for name, content in contents.items()}


def document(version: str) -> dict[str, Any]:
    """The AsyncAPI 3.0 document. `version` is that of Retouch."""
    references, schemas = models_json_schema([(topic.message, "validation") for topic in TOPICS], ref_template="#/components/schemas/{model}")
    payloads = {kind: reference for (kind, _), reference in references.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Retouch", "version": version, "description": DESCRIPTION},
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": dict(_operations()),
        "components": {
            "messages": {topic.message.ce_type(): _message(topic, payloads[topic.message]) for topic in TOPICS},
            "schemas": _without_discriminators(schemas["$defs"]),
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    retention = "for ever" if topic.retention is None else f"for {topic.retention.days} days"
    kept = f"the last record of each key {retention}" if topic.compacted else f"all records {retention}"
    configuration = {"cleanup.policy": topic.config()["cleanup.policy"].split(","), "max.message.bytes": int(topic.config()["max.message.bytes"])}
    return {
        "address": topic.name,
        "description": f"Key: {topic.key}. Written by: {topic.written_by}. Read by: {topic.read_by}. It keeps {kept}.",
        "messages": {topic.message.ce_type(): {"$ref": f"#/components/messages/{topic.message.ce_type()}"}},
        "bindings": {"kafka": {"topic": topic.name, "topicConfiguration": configuration, "bindingVersion": "0.5.0"}},
    }


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    """What a platform takes part in."""
    for topic in TOPICS:
        for action, others in (("receive", topic.written_by), ("send", topic.read_by)):
            if PLATFORM in (name.strip() for name in others.split(",")):
                yield f"{action}.{topic.name}", {"action": action, "channel": {"$ref": f"#/channels/{topic.name}"}}


def _message(topic: Topic, payload: dict[str, Any]) -> dict[str, Any]:
    kind = topic.message
    first, _, _ = (kind.__doc__ or "").partition("\n")
    return {
        "name": kind.ce_type(),
        "title": kind.__name__,
        "summary": first,
        "contentType": "application/json",
        "headers": _headers(kind),
        "payload": payload,
        "bindings": {"kafka": {"key": {"type": "string", "description": topic.key}, "bindingVersion": "0.5.0"}},
        "examples": [_example(kind)],
    }


def _headers(kind: type[Message]) -> dict[str, Any]:
    """Header names in binary mode. Values are UTF-8."""
    return {
        "type": "object",
        "required": ["ce_id", "ce_source", "ce_type"],
        "properties": {
            "ce_id": {"type": "string", "description": "id of the event, as its producer likes; the message's own id identifies it"},
            "ce_source": {"type": "string", "description": "the producer, such as /shop/recommendations"},
            "ce_type": {"const": kind.ce_type()},
            "ce_specversion": {"const": "1.0"},
            "ce_time": {"type": "string", "format": "date-time", "description": "RFC 3339 with an offset"},
            "content-type": {"const": "application/json"},
            "traceparent": {"type": "string", "description": "W3C Trace Context"},
        },
    }


def _without_discriminators(schema: Any) -> Any:
    """Pydantic's have the form of OpenAPI, which AsyncAPI refuses. `oneOf` says the same."""
    if isinstance(schema, list):
        return [_without_discriminators(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _without_discriminators(part) for name, part in schema.items() if not (name == "discriminator" and "propertyName" in part)}


def _example(kind: type[Message]) -> dict[str, Any]:
    sample = (SAMPLES / f"{kind.ce_type()}.json").read_bytes()
    message = kind.from_bytes(sample)
    example_trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = envelope_headers(message, id="1", source="/example", traceparent=example_trace, now=datetime(2026, 1, 1, tzinfo=UTC))
    return {"headers": {name: value.decode() for name, value in headers}, "payload": json.loads(sample)}
