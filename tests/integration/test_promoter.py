"""The promoter as a process over a real registry and broker. Operator commands with and without a running promoter."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from infra.kafka.clients import groupless_consumer, producer, send
from infra.local.broker import Broker
from infra.process.child import Child
from infra.process.environment import environment
from infra.registry.client import Registry
from infra.settings import Settings, load
from lab.promotion.scripted_inputs import shadow_cells
from schemas.envelope import read_message
from schemas.ids import derive
from schemas.model_events import Alias, ModelEvent
from schemas.promotion import VersionState
from schemas.responses import ModelVersion
from schemas.serving import ServingReport
from schemas.topics import MODEL_EVENTS, QUALITY, SERVING
from tests.support.checkpoint_files import write_checkpoint
from trainer.promotion.bootstrap import bootstrap
from trainer.promotion.client import PromoterClient
from trainer.promotion.discovery import LocalPromoter, find_promoter, promoter_path, token_path
from trainer.promotion.operator_commands import CommandRefused, OperatorCommand
from trainer.promotion.promoter import Observations
from trainer.promotion.topic_feed import TopicFeed
from trainer.promotion.version_history import VersionHistories

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

WITHIN_S = 60.0


@pytest.fixture(scope="module")
def settings(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Version 1 serves, version 2 is gated."""
    folder = tmp_path_factory.mktemp("promoter")
    first, second = (write_checkpoint(folder / name, weights=bytes([number]) * 16) for number, name in enumerate(("first", "second")))
    settings = load(
        kafka={"bootstrap_servers": broker.bootstrap_servers},
        stack={"dir": folder / "state"},
        registry={"model_name": f"reflector-{folder.name}"},
        reflection={"checkpoint": first},
        promotion={"shadow_max_s": 600.0},
    )
    bootstrap(settings)
    registry = Registry(settings)
    registry.register(second, parent="1")
    return settings


def command(settings: Settings) -> Child:
    return Child("promoter", [sys.executable, "-m", "trainer.promotion"], settings.stack.dir / "promoter.log", environment(settings))


@pytest.fixture(scope="module")
def promoter(settings: Settings) -> Iterator[Child]:
    child = command(settings.model_copy(update={"ready_file": settings.stack.dir / "ready"}))
    child.start()
    try:
        deadline = time.monotonic() + WITHIN_S
        while not (settings.stack.dir / "ready").exists():
            assert child.is_running and time.monotonic() < deadline, child.last_lines()
            time.sleep(0.05)
        yield child
    finally:
        child.stop(WITHIN_S)


def test_without_a_promoter_an_operator_command_writes_itself(settings: Settings) -> None:
    registry, promoter_api = Registry(settings), find_promoter(settings)
    assert isinstance(promoter_api, LocalPromoter) and promoter_api.view().champion == "1"
    with pytest.raises(CommandRefused, match="was not gated"):
        promoter_api.execute(OperatorCommand("promote", "2", "ada", "looks good"))
    histories = VersionHistories(tuple(registry.versions()))
    registry.record("2", histories.transition(registry.get("2"), VersionState.GATED, "promoter", "better", datetime.now(UTC)).transition)
    reply = promoter_api.execute(OperatorCommand("promote", "2", "ada", "looks good"))
    assert (reply.version, reply.after, reply.actor, reply.replaces) == ("2", "champion", "ada", "1")
    champion = registry.resolve(Alias.CHAMPION)
    assert champion and champion.version == "2" and registry.get("1").state is VersionState.RETIRED


def test_a_running_promoter_rolls_back_and_a_second_one_does_not_start(settings: Settings, promoter: Child) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "trainer.promotion"], env=environment(settings), capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert second.returncode == 1 and f"another promoter is running (pid {promoter.pid}" in second.stderr
    promoter_api = find_promoter(settings)
    assert isinstance(promoter_api, PromoterClient) and json.loads(promoter_path(settings).read_text())["pid"] == promoter.pid
    assert stat.S_IMODE(token_path(settings).stat().st_mode) == 0o600
    reply = promoter_api.execute(OperatorCommand("rollback", "2", "ada", "users complain"))
    assert (reply.version, reply.rolls_back, reply.replaces) == ("1", True, "2")
    registry = Registry(settings)
    champion = registry.resolve(Alias.CHAMPION)
    assert champion and champion.version == "1" and registry.get("2").state is VersionState.REJECTED
    assert promoter_api.view().champion == "1"
    with pytest.raises(CommandRefused, match="no former champion"):
        promoter_api.execute(OperatorCommand("rollback", "1", "ada", "again"))


def test_every_transition_is_published_on_model_events(settings: Settings, promoter: Child) -> None:
    versions = Registry(settings).versions()
    expected = {(version.version, step.seq) for version in versions for step in version.transitions}
    published: set[tuple[str, int | None]] = set()
    with groupless_consumer(settings, "test") as consumer:
        consumer.subscribe([MODEL_EVENTS.name])
        deadline = time.monotonic() + WITHIN_S
        while not published >= expected and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=200).values():
                events = [read_message(ModelEvent, record.headers, record.value)[0] for record in records]
                published |= {(event.version, event.seq) for event in events if event.name == settings.registry.model_name}
    assert published == expected


def own_workers(observations: Observations, experiment: UUID) -> list[str]:
    """The reporting workers of this test; those of other tests report on the same broker."""
    return [report.worker for report in observations.reports if report.worker.startswith(str(experiment))]


def test_the_feed_returns_figures_and_reports_after_it_read_the_topics_to_their_end(settings: Settings) -> None:
    experiment = derive("experiment", settings.registry.model_name)
    cell = shadow_cells(experiment, "better")[0]
    model = ModelVersion(name=settings.registry.model_name, version="1", digest="d")
    client = producer(settings, "test")
    send(client, QUALITY, cell, id=cell.key.decode(), source="/test")
    for worker, at in (("of-now", datetime.now(UTC)), ("of-yesterday", datetime.now(UTC) - timedelta(days=1))):
        send(client, SERVING, ServingReport(worker=f"{experiment}-{worker}", at=at, champion=model), id=worker, source="/test")
    client.close()
    with TopicFeed(settings) as feed:
        deadline = time.monotonic() + WITHIN_S
        while (
            not ((observations := feed.observe(experiment)).is_current and observations.cells and own_workers(observations, experiment))
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
    assert (observations.experiment, observations.cells) == (experiment, (cell,))
    assert own_workers(observations, experiment) == [f"{experiment}-of-now"]


def test_a_stopped_promoter_leaves_no_address_and_no_error(settings: Settings, promoter: Child) -> None:
    promoter.stop(WITHIN_S)
    assert promoter.exit_code == 0, promoter.last_lines()
    assert not promoter_path(settings).exists() and isinstance(find_promoter(settings), LocalPromoter)
    log: Path = promoter.log
    assert '"level": "ERROR"' not in log.read_text()
