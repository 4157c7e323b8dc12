"""The cost of online quality: CPU per answer and per outcome, memory per user, and the speed of catching up with a broker.

Records are 3.6 kB with six items and free text of 15 words, from 1,000 users in three domains. Every outcome has a truth.

    python -m bench.online_quality.cost              reading and counting, and memory, as JSON
    python -m bench.online_quality.cost --broker     with the process's own loop on a local broker, too
"""

from __future__ import annotations

import argparse
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from bench.costs import MODEL, NOON, broker_with_topics, personalized_response, print_json
from infra.settings import Settings
from schemas.contexts import HistoryItem
from schemas.envelope import envelope_headers, read_message
from schemas.experiments import Arm, Assignment
from schemas.feedback import Feedback
from schemas.ids import derive
from schemas.outcomes import Outcome
from schemas.positions import Source
from schemas.queries import Query
from schemas.responses import Response
from schemas.topics import OUTCOMES, RESPONSES
from streams.quality.open_spans import RecordRef
from streams.quality.partition_metrics import PartitionMetrics, QualityMessage

SIZE, USERS, ITEMS, WORDS = 5_000, 1_000, 6, 15
CATCH_UP_WITHIN_S = 300.0
EXPERIMENT = derive("experiment", "bench")
_VOCABULARY = ("the", "bus", "is", "slow", "today", "nobody", "knows", "why", "it", "never", "comes", "so", "we", "walk", "home", "again", "in", "rain")


def measure(size: int = SIZE) -> dict[str, float]:
    """CPU microseconds per record, for parsing and for counting, and bytes per user. Blocks for some seconds."""
    answers, figures = [_answer(number, USERS) for number in range(size)], dict[str, float]()
    metrics = PartitionMetrics(0, MODEL.name, Settings().quality, Settings().entries)
    for topic, messages in ((RESPONSES.name, answers), (OUTCOMES.name, [_judged(answer) for answer in answers])):
        figures[f"{topic}_bytes"] = round(sum(len(message.to_bytes()) for message in messages) / size)
        figures[f"{topic}_read_us"], figures[f"{topic}_count_us"] = _read_us(messages), _count_us(metrics, topic, messages)
    pair_us = sum(value for name, value in figures.items() if name.endswith("_us"))
    return figures | {"answers_with_outcomes_a_second": round(1e6 / pair_us), "user_bytes": _user_bytes(size)}


def measure_broker(size: int = SIZE) -> float:
    """Answers per second, each with its outcome, that the process reads, counts and commits from a local broker. Also blocks for the start of the broker."""
    from infra.kafka.clients import send
    from streams.quality.service import QualityService

    with broker_with_topics() as (settings, to):
        for number in range(size):
            answer = _answer(number, USERS)
            send(to, RESPONSES, answer, id=answer.query_id, source="/bench")
            send(to, OUTCOMES, _judged(answer), id=answer.query_id, source="/bench")
        to.close()
        service = QualityService(settings, threading.Event())
        try:
            service.step()
            began = time.monotonic()
            while not service.has_caught_up and time.monotonic() - began < CATCH_UP_WITHIN_S:
                service.step()
            return size / (time.monotonic() - began)
        finally:
            service.close()


def _answer(number: int, users: int) -> Response:
    rng = random.Random(number)  # noqa: S311  # the same records every time
    domain = f"domain_{number % 3}"
    query_id = derive("query", number)
    query = Query(query_id=query_id, tenant="bench", user=f"u{number % users}", domain=domain, text=_text(rng, 30), asked_at=NOON)
    items = tuple(
        HistoryItem(
            interaction_id=derive("item", number, index),
            content=_text(rng, 30),
            response=_text(rng, WORDS),
            occurred_at=NOON,
            score=0.5,
            source=Source(topic="interactions", partition=0, offset=index),
        )
        for index in range(ITEMS)
    )
    assignment = Assignment(experiment=EXPERIMENT, arm=(Arm.CANARY, Arm.BASELINE)[number % users % 2], version="1")
    draft = _text(rng, WORDS)
    return personalized_response(query, items, draft=draft, answer=_text(rng, WORDS), reasoning=_text(rng, 40), assignment=assignment)


def _judged(answer: Response) -> Outcome:
    return Outcome.joined(answer, Feedback.answering(answer.context.draft.query, answer.context.items[0].response, NOON))


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(_VOCABULARY) for _ in range(words))


def _read_us(messages: Sequence[QualityMessage]) -> float:
    records = [(type(message), envelope_headers(message, id=1, source="/bench"), message.to_bytes()) for message in messages]
    return _cpu_us(lambda: [read_message(kind, headers, value) for kind, headers, value in records], len(messages))


def _count_us(metrics: PartitionMetrics, topic: str, messages: Sequence[QualityMessage]) -> float:
    return _cpu_us(lambda: _count(metrics, topic, messages), len(messages))


def _count(metrics: PartitionMetrics, topic: str, messages: Sequence[QualityMessage]) -> None:
    now = time.time()
    for offset, message in enumerate(messages):
        metrics.count(message, RecordRef(topic, offset, now))


def _user_bytes(size: int) -> int:
    """Bytes of a user with one answer and its outcome, in one window and one experiment, by domain and over all, with their ids."""
    answers = [_answer(number, size) for number in range(size)]
    outcomes, metrics = [_judged(answer) for answer in answers], PartitionMetrics(0, MODEL.name, Settings().quality, Settings().entries)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    _count(metrics, RESPONSES.name, answers)
    _count(metrics, OUTCOMES.name, outcomes)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round((after - before) / size)


def _cpu_us(body: Callable[[], Any], records: int) -> float:
    began = time.process_time()
    body()
    return round((time.process_time() - began) * 1e6 / records, 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.online_quality.cost", description="Prints the cost of online quality as JSON.")
    parser.add_argument("--size", type=int, default=SIZE, help="number of answers, each with its outcome")
    parser.add_argument("--broker", action="store_true", help="also measure the process on a local broker")
    flags = parser.parse_args()
    figures = measure(flags.size)
    if flags.broker:
        figures["broker_answers_with_outcomes_a_second"] = round(measure_broker(flags.size))
    print_json(figures)


if __name__ == "__main__":
    main()
