"""The reflection worker as it is deployed: a process with a real broker, a real registry and the shipped model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest

from infra.kafka.clients import producer, send
from infra.kafka.topic_reader import TopicReader
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from infra.telemetry.json_logs import json_lines
from schemas.contexts import Context, HistoryItem
from schemas.drafts import Draft
from schemas.experiments import Arm, Assignment
from schemas.ids import derive
from schemas.messages import Malformed, Message
from schemas.model_events import Alias, ModelEvent
from schemas.positions import Source
from schemas.promotion import Transition, VersionState
from schemas.queries import Query
from schemas.responses import Response, ResponseStatus
from schemas.serving import ServingReport
from schemas.shadows import Shadow
from schemas.topics import CONTEXTS, MODEL_EVENTS, RESPONSES, SERVING, SHADOWS, Topic
from workers.serving.follower import VERSION_SWAPPED

M = TypeVar("M", bound=Message)

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "pico" / "checkpoints" / "reflector"
START_S, WAIT_S = 180.0, 120.0
#: How often the worker polls the registry without an event: long enough for an event to come first.
POLL_S = 30.0


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return Registry(settings)


def test_a_promoted_version_takes_over_under_load_without_losing_a_query(settings: Settings, registry: Registry, tmp_path: Path) -> None:
    first = registry.register(SHIPPED)
    second = registry.register(_other_weights(tmp_path / "second"), parent=first.version)
    registry.set_alias(Alias.CHAMPION, first.version)
    started = time.monotonic()
    with _worker(settings, tmp_path) as worker:
        query_ids = _ask(settings, 40)
        assert _answers(settings, query_ids, 1)  # the ready file only means that it has joined the group
        query_ids |= _ask(settings, 40)
        _promote(settings, registry, first, second)
        query_ids |= _ask(settings, 60)
        _wait_for_swap(tmp_path / "worker.log")
        swapped_s = time.monotonic() - started
        query_ids |= _ask(settings, 20)
        answers = _answers(settings, query_ids)
        experiment = _challenge(settings, registry, first, second)
        tried = _ask(settings, 20)
        shadows = _shadows(settings, experiment, 20)
        arms = {answer.provenance.assignment for answer in _answers(settings, tried)}
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, (tmp_path / "worker.log").read_text()
    assert Counter(answer.query_id for answer in answers) == Counter(query_ids)
    versions = Counter(answer.provenance.model.version for answer in answers if answer.provenance.model)
    assert versions.keys() == {first.version, second.version}
    assert versions[second.version] >= 20
    assert sum(answer.status is ResponseStatus.PERSONALIZED for answer in answers) > 60
    (swap,) = _swaps(tmp_path / "worker.log")
    assert (swap["from"], swap["to"], swap["dropped"]) == (first.version, second.version, 0)
    assert swap["event_to_swap_ms"] is not None or swapped_s > POLL_S  # None only if the event came before the worker listened, or when a poll was due
    assert arms == {Assignment(experiment=experiment, arm=Arm.CHAMPION, version=second.version)}
    assert {shadow.query_id for shadow in shadows} == tried
    assert {(shadow.model, shadow.assignment.arm, shadow.assignment.version) for shadow in shadows} == {(first.model, Arm.SHADOW, first.version)}
    assert "the bus is slow" not in (tmp_path / "worker.log").read_text()  # users' text


def _other_weights(folder: Path) -> Path:
    """The shipped model with a little noise: some answers differ."""
    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    for path in SHIPPED.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    torch.manual_seed(0)
    tensors = {
        name: tensor * (1 + 0.01 * torch.randn_like(tensor.float())).to(tensor.dtype) for name, tensor in load_file(SHIPPED / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@contextmanager
def _worker(settings: Settings, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A ready reflection worker. Kills it if it has not ended by itself."""
    ready = folder / "ready"
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers(),
        "RETOUCH_STACK__DIR": str(settings.stack.dir),
        "RETOUCH_REFLECTION__ENGINE": "transformers",
        "RETOUCH_REFLECTION__CONCURRENCY": "16",
        "RETOUCH_REFLECTION__POLL_S": str(POLL_S),
        "RETOUCH_READY_FILE": str(ready),
    }
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "workers", "reflection"], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            until = time.monotonic() + START_S
            while not ready.exists():
                assert process.poll() is None, (folder / "worker.log").read_text()
                assert time.monotonic() < until, "not ready in time"
                time.sleep(0.1)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(10)


def _ask(settings: Settings, count: int) -> set[uuid.UUID]:
    contexts = [_context(f"reader-{number}") for number in range(count)]
    to = producer(settings, "tests")
    for context in contexts:
        send(to, CONTEXTS, context, id=derive("context", context.draft.query.query_id), source="/tests")
    to.flush(30)
    to.close()
    return {context.draft.query.query_id for context in contexts}


def _context(user: str) -> Context:
    now = datetime.now(UTC)
    query = Query(query_id=uuid4(), tenant="test", user=user, domain="tweet_paraphrase", text="the bus is slow today", asked_at=now)
    draft = Draft(query=query, answer="The bus is very slow today", base_model="base", base_ms=1)
    items = tuple(
        HistoryItem(
            interaction_id=uuid4(),
            content="the coffee is cold again",
            response="honestly the coffee is so cold again !!",
            occurred_at=now - timedelta(days=1),
            score=0.5,
            source=Source(topic="interactions", partition=0, offset=offset),
        )
        for offset in range(4)
    )
    return Context(draft=draft, items=items, k_max=6, retrieve_ms=1)


def _promote(settings: Settings, registry: Registry, before: RegisteredVersion, after: RegisteredVersion) -> None:
    """Moves the alias, then publishes the event, like the promoter."""
    registry.set_alias(Alias.CHAMPION, after.version)
    _publish_event(settings, before, after)


def _challenge(settings: Settings, registry: Registry, challenger: RegisteredVersion, champion: RegisteredVersion) -> uuid.UUID:
    """Puts a version into shadow for every query, and waits until the worker has loaded it. Returns the experiment."""
    experiment = uuid4()
    fields: dict[str, Any] = {"at": datetime.now(UTC), "actor": "tests", "reason": "test"}
    registry.record(challenger.version, Transition(seq=1, before=VersionState.REGISTERED, after=VersionState.GATED, **fields))
    registry.record(challenger.version, Transition(seq=2, before=VersionState.GATED, after=VersionState.SHADOW, experiment=experiment, share=1.0, **fields))
    registry.set_alias(Alias.CHALLENGER, challenger.version)
    _publish_event(settings, champion, challenger)
    report, *_ = _read(settings, SERVING, ServingReport, lambda report: report.experiment == experiment, 1)  # published every few seconds
    assert (report.champion, report.challenger, report.refused, report.swaps) == (champion.model, challenger.model, (), 1)
    return experiment


def _publish_event(settings: Settings, before: RegisteredVersion, after: RegisteredVersion) -> None:
    event = ModelEvent(
        event_id=uuid4(),
        name=after.name,
        version=after.version,
        alias=Alias.CHAMPION,
        digest=after.digest,
        previous=before.version,
        reason="test",
        occurred_at=datetime.now(UTC),
    )
    to = producer(settings, "tests")
    send(to, MODEL_EVENTS, event, id=event.event_id, source="/tests")
    to.flush(30)
    to.close()


def _swaps(log: Path) -> list[dict[str, Any]]:
    """The worker's log lines about completed swaps."""
    return [line for line in json_lines(log) if line.get("text") == VERSION_SWAPPED]


def _wait_for_swap(log: Path) -> None:
    until = time.monotonic() + WAIT_S
    while not _swaps(log):
        assert time.monotonic() < until, "no swap"
        time.sleep(0.05)


def _answers(settings: Settings, query_ids: set[uuid.UUID], count: int | None = None) -> list[Response]:
    """All responses to these queries, repeats included. With `count`, waits only for that many different ones."""
    return _read(settings, RESPONSES, Response, lambda answer: answer.query_id in query_ids, count or len(query_ids), lambda answer: answer.query_id)


def _shadows(settings: Settings, experiment: uuid.UUID, count: int) -> list[Shadow]:
    return _read(settings, SHADOWS, Shadow, lambda shadow: shadow.assignment.experiment == experiment, count)


def _read(settings: Settings, topic: Topic, kind: type[M], matches: Callable[[M], bool], count: int, identity: Callable[[M], object] = id) -> list[M]:
    """Reads matching messages of a topic until there are `count` different ones."""
    messages: list[M] = []
    with TopicReader(settings, "tests") as reader:
        reader.follow(topic.name)
        until = time.monotonic() + WAIT_S
        while len(set(map(identity, messages))) < count and time.monotonic() < until:
            read = [message for record in reader.poll(0.2) if (message := _readable(kind, record.value)) is not None]
            messages += [message for message in read if matches(message)]
    return messages


def _readable(kind: type[M], value: bytes) -> M | None:
    """None for malformed records of other tests on this broker."""
    try:
        return kind.from_bytes(value)
    except Malformed:
        return None
