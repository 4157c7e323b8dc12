"""Base and strategies worker on a real broker, with processes that die. Retrieval is scripted: each lookup finds the same items, summary and factors."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from infra.hydra.checkpoint import save_hydra
from infra.hydra.model import HydraModel
from infra.kafka.clients import producer, send
from infra.kafka.topic_reader import TopicReader
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.drafts import Draft, DraftStatus
from schemas.envelope import read_message
from schemas.features import Factor, FactoredFeature, Influence, UserFactors
from schemas.ids import derive
from schemas.lookups import Lookup, Retrieval
from schemas.messages import Malformed, Message
from schemas.model_events import Alias
from schemas.profiles import Summary, summary_id
from schemas.queries import Query
from schemas.responses import ModelVersion, ProfileParts, Response, ResponseStatus
from schemas.strategies import Strategy
from schemas.topics import DRAFTS, LOOKUPS, QUERIES, RESPONSES, RETRIEVALS, Topic
from tests.support.openai_server import OpenAiServer, ScriptedAnswer, completion, serving
from tests.support.tiny_encoder import make_hydra
from tests.support.worker_messages import NOON, make_example, make_item
from tests.support.worker_process import USERS_TEXT, process

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

#: Ten times what a test needs: the machine is shared.
WAIT_S = 60.0
ITEMS = tuple(make_item(number) for number in range(6))
STRATEGIES = tuple(strategy for strategy in Strategy if strategy is not Strategy.HYDRA)  # it needs a model, and has a test of its own
#: Items in a prompt, of the strategies that read the history.
SHOWN = {Strategy.ICL: 4, Strategy.RAG: 4, Strategy.RAG_COT: 4, Strategy.PAG: 4, Strategy.PAG_COT: 4, Strategy.RPM: 3}

SUMMARY = Summary(text="most popular tag: comedy", count=6, until=NOON)
FACTOR = Factor(factor_id=derive("factor", 1), label="film", statistic=Influence(coverage=6, influence=0, polarity=None))
FACTORS = UserFactors.of([FACTOR], 6, NOON)
EXAMPLES = tuple(make_example(item, "No feature of it belongs to a factor.", FACTORS.version) for item in ITEMS)


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


def retrieved(lookup: Lookup, ms: float) -> Retrieval:
    reads, k = lookup.reads, lookup.reads.k
    features = tuple(FactoredFeature(feature=each.feature, factor_id=FACTOR.factor_id) for each in lookup.features or ())
    return Retrieval(
        lookup=lookup,
        items=ITEMS[:k],
        retrieve_ms=ms,
        summary=SUMMARY if reads.summary else None,
        factors=FACTORS if reads.factors else None,
        features=features,
        examples=EXAMPLES[: reads.examples_by_features or (k if reads.examples else 0)],
    )


M = TypeVar("M", bound=Message)


def readable(message: type[M], records: Iterable[Any]) -> Iterator[M]:
    """The messages of this type. Tests of other files leave broken records on the same broker."""
    for record in records:
        with suppress(Malformed):
            yield read_message(message, record.headers, record.value)[0]


class ScriptedRetrieval(threading.Thread):
    """Answers each lookup of these queries, twice, as a streams process that restarts may do. While `hold` is set, second lookups wait in `held`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self._settings = settings
        self._over = threading.Event()
        self.queries: set[uuid.UUID] = set()
        self.hold = threading.Event()
        self.held: list[Lookup] = []

    def run(self) -> None:
        with TopicReader(self._settings, "scripted-retrieval") as reader, closing(producer(self._settings, "test")) as to:
            reader.follow(LOOKUPS.name)
            while not self._over.is_set():
                for lookup in readable(Lookup, reader.poll(0.1)):
                    if lookup.query.query_id not in self.queries:
                        continue
                    if self.hold.is_set() and lookup.step > 1:
                        self.held.append(lookup)
                    else:
                        self._answer(to, lookup)
                while self.held and not self.hold.is_set():
                    self._answer(to, self.held.pop())

    @staticmethod
    def _answer(to: Any, lookup: Lookup) -> None:
        for ms in (1.0, 2.0):
            send(to, RETRIEVALS, retrieved(lookup, ms), id=derive("retrieval", lookup.id), source="/test")

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
            for read in readable(message, reader.poll(0.2)):
                query_id = read.query.query_id if isinstance(read, Draft) else read.query_id if isinstance(read, Response) else None
                if query_id in expected:
                    found.append(read)
            if until is None and len(found) >= len(expected):
                until = time.monotonic() + 0.5
    return found


def profile_of(strategy: Strategy, query: Query) -> ProfileParts | None:
    if strategy is Strategy.RPM:
        return ProfileParts(statistics_version=FACTORS.version, reasoning_versions=(FACTORS.version,) * SHOWN[strategy])
    if strategy in (Strategy.PAG, Strategy.PAG_COT):
        return ProfileParts(summary_id=summary_id(query.tenant, query.user, query.domain, SUMMARY.count))
    return None


def check(settings: Settings, queries: Sequence[Query]) -> None:
    """Each query has one draft, for RPO, or one response, made by its own strategy."""
    rewritten = [query for query in queries if query.strategy is Strategy.RPO]
    answered = [query for query in queries if query.strategy is not Strategy.RPO]
    drafts = answers_to(settings, DRAFTS, Draft, rewritten)
    assert Counter(draft.query.query_id for draft in drafts) == Counter(query.query_id for query in rewritten)
    responses = answers_to(settings, RESPONSES, Response, answered)
    assert Counter(response.query_id for response in responses) == Counter(query.query_id for query in answered)
    for response in responses:
        provenance, strategy = response.provenance, response.context.draft.choice.strategy
        k = SHOWN.get(strategy, 0)
        assert response.answer == ("with profile" if k else "bare")
        assert (provenance.answered_by, provenance.k) == (None, k)
        assert provenance.history_ids == tuple(item.interaction_id for item in ITEMS[:k])
        assert provenance.profile == profile_of(strategy, response.context.draft.query)
        assert response.status is (ResponseStatus.PERSONALIZED if k else ResponseStatus.ZERO_SHOT)
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


def test_rpm_answers_once_although_its_worker_is_killed_between_the_two_lookups(settings: Settings, tmp_path: Path) -> None:
    two = {"RETOUCH_STRATEGIES__RPM_RETRIEVAL": "query"}
    with serving(answer) as endpoint, ScriptedRetrieval(settings) as retrieval, worker("base", settings, tmp_path, endpoint.url, **two):
        retrieval.hold.set()
        with worker("strategies", settings, tmp_path, endpoint.url, **two) as strategies:
            queries = ask(settings, retrieval, 40, [Strategy.RPM])
            wait_for(lambda: len(retrieval.held) > 4)
            strategies.send_signal(signal.SIGKILL)
            strategies.wait(WAIT_S)
        assert not calls_with_profile(endpoint)
        with worker("strategies", settings, tmp_path, endpoint.url, **two):
            wait_for(lambda: {lookup.query.query_id for lookup in retrieval.held} == {query.query_id for query in queries})
            assert len(retrieval.held) == len(queries), "a second lookup is published once"
            retrieval.hold.clear()
            check(settings, queries)


def register_hydra(settings: Settings, folder: Path) -> ModelVersion:
    """A random version of HYDRA, as champion."""
    save_hydra(folder / "version", make_hydra(folder / "encoder"))
    registry = Registry(settings, settings.hydra.model_name)
    version = registry.register(folder / "version")
    registry.set_alias(Alias.CHAMPION, version.version)
    return version.model


@pytest.mark.long("loads HYDRA in a worker that is killed")
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
