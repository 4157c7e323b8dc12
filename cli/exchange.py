"""Sends one message to a topic and waits for the message of another topic that answers it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from infra.errors import RetryLater
from infra.kafka.clients import producer, send
from infra.kafka.errors import broker_errors, missing_topics
from infra.kafka.refusals import WRITES
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.envelope import read_message
from schemas.messages import Malformed, Message
from schemas.topics import Topic

CONNECT_TIMEOUT_S = 10.0

M = TypeVar("M", bound=Message)


def exchange(
    settings: Settings, name: str, topic: Topic, message: Message, id: object, answers: Topic, kind: type[M], is_answer: Callable[[M], bool], timeout_s: float
) -> M | None:
    """The first message of `answers` that `is_answer` accepts; None if there is none within `timeout_s`. Blocks. `name` is that of the command.

    The reader seeks to the end of `answers` before the message is sent, so it misses no answer and reads no old record. Raises RetryLater or
    CannotContinue if the broker does not respond in time or has no such topic.
    """
    with TopicReader(settings, f"retouch-{name}", timeout_s=CONNECT_TIMEOUT_S) as reader, broker_errors(settings):
        if not reader.follow(answers.name, from_end=True):
            raise missing_topics(settings, [answers.name])
        with broker_errors(settings, RetryLater, "take the message", WRITES), closing(producer(settings, f"retouch-{name}")) as sender:
            send(sender, topic, message, id=id, source=f"/infra/{name}").get(timeout=CONNECT_TIMEOUT_S)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for record in reader.poll(0.2):
                try:
                    answer, _ = read_message(kind, record.headers, record.value)
                except Malformed:
                    continue  # the topic's consumer groups set it aside
                if is_answer(answer):
                    return answer
    return None
