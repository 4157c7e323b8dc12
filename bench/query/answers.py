"""The messages that follow from what was sent, by query id. Messages of earlier drafts and repeats, which a restarted process may publish, do not count."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.workers.answers import ReadRecord
from bench.workers.live_reader import LiveReader
from schemas.topics import CONTEXTS, DRAFTS, RESPONSES

_QUERY_ID: Mapping[str, Callable[[dict[str, Any]], str]] = {
    DRAFTS.name: lambda message: str(message["query"]["query_id"]),
    CONTEXTS.name: lambda message: str(message["draft"]["query"]["query_id"]),
    RESPONSES.name: lambda message: str(message["query_id"]),
}


@dataclass(frozen=True)
class ReadMessage:
    """`visible_s`: when the reader got it, Unix time."""

    visible_s: float
    message: dict[str, Any]


def by_query(topic: str, records: Iterable[ReadRecord], ids: Collection[str]) -> dict[str, ReadMessage]:
    """The first message of each query in `ids`."""
    first: dict[str, ReadMessage] = {}
    for record in records:
        message = json.loads(record.value)
        if (id := _QUERY_ID[topic](message)) in ids:
            first.setdefault(id, ReadMessage(record.visible_s, message))
    return first


def wait_for(reader: LiveReader, topic: str, ids: Collection[str], timeout_s: float) -> dict[str, ReadMessage]:
    """`by_query`, once all have a message or `timeout_s` have passed. Raises CannotContinue if the reader has failed."""
    deadline = time.monotonic() + timeout_s
    while True:
        count, found = reader.count, by_query(topic, reader.records_of(topic), ids)
        left_s = deadline - time.monotonic()
        if len(found) == len(ids) or left_s <= 0:
            return found
        reader.wait_for(count + 1, left_s)
