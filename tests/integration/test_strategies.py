"""Base and strategies worker on a real broker, with processes that die. Retrieval is scripted: it finds the same items for every lookup."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.hydra.checkpoint import save_hydra
from infra.hydra.model import HydraModel
from infra.kafka.clients import producer, send
from infra.kafka.topic_reader import TopicReader
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.drafts import Draft, DraftStatus
from schemas.envelope import read_message
from schemas.ids import derive
from schemas.lookups import Lookup, Retrieval
from schemas.messages import Malformed, Message
from schemas.model_events import Alias
from schemas.queries import Query
from schemas.responses import ModelVersion, Response, ResponseStatus
from schemas.strategies import Strategy
from schemas.topics import DRAFTS, LOOKUPS, QUERIES, RESPONSES, RETRIEVALS, Topic
from tests.support.openai_server import OpenAiServer, ScriptedAnswer, completion, serving
from tests.support.tiny_encoder import make_hydra
from tests.support.worker_messages import make_item
from tests.support.worker_process import USERS_TEXT, process

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

#: Ten times what a test needs: the machine is shared.
WAIT_S = 60.0
ITEMS = tuple(make_item(number) for number in range(6))
STRATEGIES = (Strategy.RPO, Strategy.ZERO_SHOT, Strategy.ZERO_SHOT_COT, Strategy.ICL, Strategy.RAG, Strategy.RAG_COT)


def answer(body: dict[str, Any]) -> ScriptedAnswer:
    """Slow enough that a kill finds calls in flight. Prompts with a profile get another answer, so a test sees which prompt was asked."""
    time.sleep(0.1)
    prompt = body["messages"][0]["content"]
    text = "with profile" if "profile :" in prompt else "bare"
    if (count := body.get("n", 1)) > 1:
        return completion(*(f"{text} {n}" for n in range(count)))
    return completion(f"because\nAnswer: {text}" if "step by step" in prompt else text)


def worker(name: str, settings: Settings, folder: Path, url: str, **more: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return process(settings, folder, "workers", name, base_url=url, RETOUCH_BASE__CONCURRENCY="4", **more)


class ScriptedRetrieval(threading.Thread):
    """Answers each lookup of these queries with ITEMS, twice, as a streams process that restarts may do."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self._settings = settings
        self._over = threading.Event()
        self.queries: set[uuid.UUID] = set()

    def run(self) -> None:
        with TopicReader(self._settings, "scripted-retrieval") as reader, closing(producer(self._settings, "test")) as to:
            reader.follow(LOOKUPS.name)
            while not self._over.is_set():
                for record in reader.poll(0.1):
                    lookup, _ = read_message(Lookup, record.headers, record.value)
                    if lookup.query.query_id in self.queries:
                        found = ITEMS[: lookup.reads.k]
                        for ms in (1.0, 2.0):
                            retrieval = Retrieval(lookup=lookup, items=found, retrieve_ms=ms)
                            send(to, RETRIEVALS, retrieval, id=derive("retrieval", lookup.id), source="/test")

    def __enter__(self) -> ScriptedRetrieval:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self.join(WAIT_S)


def ask(settings: Settings, retrieval: ScriptedRetrieval, count: int, strategies: Sequence[Strategy] = STRATEGIES) -> list[Query]:
    queries = [
        Query(
            query_id=uuid.uuid4(),
            tenant="test-strategies",
            user=f"u{number % 20}",
            domain="movie_tag",
            text=USERS_TEXT,
            asked_at=datetime.now(UTC),
            strategy=strategies[number % len(strategies)],
        )
        for number in range(count)
    ]
    retrieval.queries |= {query.query_id for query in queries}
    with closing(producer(settings, "test")) as to:
        for query in queries:
            send(to, QUERIES, query, id=query.query_id, source="/test")
    return queries


def answers_to(settings: Settings, topic: Topic, message: type[Message], queries: Sequence[Query]) -> list[Any]:
    """All messages to these queries on the topic, once each query has one. Waits a moment for one too many."""
    expected = {query.query_id for query in queries}
    found: list[Any] = []
    deadline = time.monotonic() + 2 * WAIT_S
    with TopicReader(settings, "test-reader") as reader:
        reader.follow(topic.name)
        until: float | None = None
        while until is None or time.monotonic() < until:
            assert until or time.monotonic() < deadline, f"{len(found)} of {len(expected)} on {topic.name}"
            for record in reader.poll(0.2):
                try:
                    read, _ = read_message(message, record.headers, record.value)
                except Malformed:
                    continue
                query_id = read.query.query_id if isinstance(read, Draft) else read.query_id if isinstance(read, Response) else None
                if query_id in expected:
                    found.append(read)
            if until is None and len(found) >= len(expected):
                until = time.monotonic() + 0.5
    return found


def check(settings: Settings, queries: Sequence[Query]) -> None:
    """Each query has one draft, for RPO, or one response, made by its own strategy."""
    rewritten = [query for query in queries if query.strategy is Strategy.RPO]
    answered = [query for query in queries if query.strategy is not Strategy.RPO]
    drafts = answers_to(settings, DRAFTS, Draft, rewritten)
    assert Counter(draft.query.query_id for draft in drafts) == Counter(query.query_id for query in rewritten)
    responses = answers_to(settings, RESPONSES, Response, answered)
    assert Counter(response.query_id for response in responses) == Counter(query.query_id for query in answered)
    for response in responses:
        provenance, reads = response.provenance, response.context.draft.choice.strategy in (Strategy.ICL, Strategy.RAG, Strategy.RAG_COT)
        assert response.answer == ("with profile" if reads else "bare")
        assert (provenance.answered_by, provenance.k) == (None, 4 if reads else 0)
        assert provenance.history_ids == (tuple(item.interaction_id for item in ITEMS[:4]) if reads else ())
        assert response.status is (ResponseStatus.PERSONALIZED if reads else ResponseStatus.ZERO_SHOT)
        is_base = provenance.strategy is Strategy.ZERO_SHOT
        assert response.context.draft.status is (DraftStatus.DRAFTED if is_base else DraftStatus.NOT_ASKED)
        assert response.reasoning == ("because" if provenance.strategy.endswith("_cot") else "")


def calls_with_profile(endpoint: OpenAiServer) -> int:
    return sum("profile :" in body["messages"][0]["content"] for body in endpoint.requests)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_each_query_has_one_answer_by_its_strategy_although_both_workers_are_killed(settings: Settings, tmp_path: Path) -> None:
    with serving(answer) as endpoint, ScriptedRetrieval(settings) as retrieval:
        queries: list[Query] = []
        for _ in range(2):
            with worker("base", settings, tmp_path, endpoint.url) as base, worker("strategies", settings, tmp_path, endpoint.url) as strategies:
                before = calls_with_profile(endpoint), len(endpoint.requests)
                queries += ask(settings, retrieval, 60)
                wait_for(lambda: calls_with_profile(endpoint) > before[0] + 2)  # noqa: B023  # called at once
                strategies.send_signal(signal.SIGKILL)
                wait_for(lambda: len(endpoint.requests) > before[1] + 12)  # noqa: B023
                base.send_signal(signal.SIGKILL)
        with worker("base", settings, tmp_path, endpoint.url), worker("strategies", settings, tmp_path, endpoint.url):
            check(settings, queries)


def register_hydra(settings: Settings, folder: Path) -> ModelVersion:
    """A random version of HYDRA, as champion."""
    save_hydra(folder / "version", make_hydra(folder / "encoder"))
    registry = Registry(settings, settings.hydra.model_name)
    version = registry.register(folder / "version")
    registry.set_alias(Alias.CHAMPION, version.version)
    return version.model


def test_hydra_answers_each_query_once_although_its_worker_is_killed(settings: Settings, tmp_path: Path) -> None:
    model, state = register_hydra(settings, tmp_path), {"RETOUCH_STACK__DIR": str(settings.stack.dir)}
    with serving(answer) as endpoint, ScriptedRetrieval(settings) as retrieval, worker("base", settings, tmp_path, endpoint.url, **state):
        queries = ask(settings, retrieval, 40, [Strategy.HYDRA])
        with worker("strategies", settings, tmp_path, endpoint.url, **state) as strategies:
            wait_for(lambda: calls_with_profile(endpoint) > 3)
            strategies.send_signal(signal.SIGKILL)
        with worker("strategies", settings, tmp_path, endpoint.url, **state):
            responses = answers_to(settings, RESPONSES, Response, queries)
    assert Counter(response.query_id for response in responses) == Counter(query.query_id for query in queries)
    hydra = HydraModel(make_hydra(tmp_path / "again"))
    best = tuple(ITEMS[one.position].interaction_id for one in hydra.rank("test-strategies/u0", USERS_TEXT, ITEMS)[:4])
    assert best != tuple(item.interaction_id for item in ITEMS[:4])
    chosen = hydra.choose("test-strategies/u0", f"tag : {USERS_TEXT}", [f"with profile {n}" for n in range(8)]).position
    assert {(response.answer, response.status, response.provenance.answered_by) for response in responses} == {
        (f"with profile {chosen}", ResponseStatus.PERSONALIZED, None)
    }
    assert {(response.provenance.model, response.provenance.history_ids) for response in responses} == {(model, best)}
