"""The exported contract: it is that of this version, its schemas accept the examples, and our reader reads them."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from schemas.asyncapi import document, files
from schemas.envelope import read_message
from schemas.topics import FEEDBACK, INTERACTIONS, QUERIES, RESPONSES, TOPICS, Topic

CONTRACT = Path(__file__).parents[3] / "docs" / "contract"


def test_the_files_in_docs_are_those_of_this_version() -> None:
    expected = files(version("retouch"))
    assert {path.name for path in CONTRACT.iterdir()} == expected.keys()
    for name, content in expected.items():
        assert (CONTRACT / name).read_text(encoding="utf-8") == content, "run: retouch schemas export --out docs/contract"


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_the_example_of_a_topic_fits_its_schemas_and_is_read(topic: Topic) -> None:
    contract = document("1")
    message = contract["components"]["messages"][topic.message.ce_type()]
    (example,) = message["examples"]
    jsonschema.Draft202012Validator({**message["payload"], "components": contract["components"]}).validate(example["payload"])
    jsonschema.Draft202012Validator(json.loads(files("1")[f"{topic.message.ce_type()}.schema.json"])).validate(example["payload"])
    jsonschema.Draft202012Validator(message["headers"]).validate(example["headers"])
    headers = [(name, value.encode()) for name, value in example["headers"].items()]
    read_message(topic.message, headers, json.dumps(example["payload"]).encode())


def test_a_platform_sends_what_retouch_receives() -> None:
    operations = document("1")["operations"]
    received = {INTERACTIONS.name, QUERIES.name, FEEDBACK.name, "erasures"}
    assert {f"receive.{name}" for name in received} | {f"send.{RESPONSES.name}"} == operations.keys()


def test_every_reference_in_the_document_leads_somewhere() -> None:
    contract = document("1")
    for reference in _references(contract):
        found: Any = contract
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found
    assert document("2")["info"]["version"] == "2"


def _references(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*(_references(value) for value in part.values()))
    return set[str]().union(*(_references(item) for item in part)) if isinstance(part, list) else set()
