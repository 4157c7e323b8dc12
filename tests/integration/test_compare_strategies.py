"""Two strategies on a real broker: online quality and the promoter run as processes, and `retouch strategies compare` shows the difference."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from infra.kafka.clients import producer, send
from infra.local.broker import Broker
from infra.process.child import Child
from infra.process.environment import environment
from infra.settings import Settings, load
from schemas.ids import derive
from schemas.responses import ResponseStatus
from schemas.strategies import Strategy, choose_strategy
from schemas.topics import OUTCOMES, RESPONSES
from tests.support.checkpoint_files import write_checkpoint
from tests.support.quality_records import make_outcome, make_response
from tests.support.streams_process import running
from trainer.promotion.bootstrap import bootstrap
from trainer.promotion.discovery import find_promoter

pytestmark = [pytest.mark.integration, pytest.mark.long("routes users between two strategies of a running system"), pytest.mark.timeout(300)]

WITHIN_S = 90.0
USERS, EACH = 120, 8
RIGHT = {Strategy.RAG: 0.45, Strategy.RPO: 0.8}


@pytest.fixture(scope="module")
def settings(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("strategies")
    settings = load(
        kafka={"bootstrap_servers": broker.bootstrap_servers},
        stack={"dir": folder / "state"},
        registry={"model_name": f"reflector-{folder.name}"},
        reflection={"checkpoint": write_checkpoint(folder / "first", weights=bytes(16))},
        strategies={"weights": {"rag": 1, "rpo": 1}, "experiment": folder.name.lower()},
        quality={"every_s": 0.2},
    )
    bootstrap(settings)
    return settings


@pytest.fixture
def promoter(settings: Settings) -> Iterator[Child]:
    ready = settings.stack.dir / "ready"
    with_file = environment(settings.model_copy(update={"ready_file": ready}))
    child = Child("promoter", [sys.executable, "-m", "trainer.promotion"], settings.stack.dir / "promoter.log", with_file)
    child.start()
    try:
        deadline = time.monotonic() + WITHIN_S
        while not ready.exists():
            assert child.is_running and time.monotonic() < deadline, child.last_lines()
            time.sleep(0.05)
        yield child
    finally:
        child.stop(WITHIN_S)


def produce(settings: Settings) -> dict[Strategy, int]:
    """Scored answers to routed users, one in ten of RAG without an answer, and many right ones of RAG to queries that named it. Returns the routed users."""
    rng, to, users = random.Random(0), producer(settings, "test"), dict.fromkeys(RIGHT, 0)
    routing = settings.strategies
    for user in (f"{routing.experiment}-{number}" for number in range(USERS)):
        chosen = choose_strategy(None, routing.weights, routing.experiment, "acme", user)
        users[chosen.strategy] += 1
        for number in range(EACH):
            facts: dict[str, Any] = {"strategy": chosen.strategy, "comparison": chosen.experiment}
            if chosen.strategy is Strategy.RAG and number == 0:
                facts |= {"status": ResponseStatus.BASE_FAILED, "base": ""}
            right = "" if "status" in facts else "comedy" if rng.random() < RIGHT[chosen.strategy] else "drama"
            named = make_response(100 + number, user=user, strategy=Strategy.RAG, answered_at=datetime.now(UTC))
            for response in (make_response(number, right, user=user, answered_at=datetime.now(UTC), **facts), named):
                for topic, message in ((RESPONSES, response), (OUTCOMES, make_outcome(response))):
                    send(to, topic, message, id=derive("record", message.to_bytes()), source="/test")
    to.close()
    return users


def compare(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.app", "strategies", "compare", *arguments]
    return subprocess.run(command, env=environment(settings), capture_output=True, text=True, timeout=WITHIN_S, check=False)


def wait_until_scored(settings: Settings, promoter: Child, answers: int) -> None:
    deadline, name, scored = time.monotonic() + WITHIN_S, settings.strategies.experiment, 0
    while scored != answers:
        assert promoter.is_running and time.monotonic() < deadline, (scored, promoter.last_lines())
        time.sleep(0.2)
        mine = [comparison for comparison in find_promoter(settings).view().comparisons if comparison.experiment == name]
        scored = sum(row.scored for comparison in mine for row in comparison.strategies if row.domain is None)


def test_two_strategies_are_compared_by_what_routed_users_got(settings: Settings, promoter: Child) -> None:
    with running(settings, "streams quality", RETOUCH_QUALITY__EVERY_S="0.2"):
        users = produce(settings)
        wait_until_scored(settings, promoter, USERS * EACH)
    shown = compare(settings, "rag", "rpo", "--json")
    assert shown.returncode == 0, shown.stderr
    reply = json.loads(shown.stdout)
    rag, rpo = (row for row in reply["strategies"] if row["domain"] is None)
    assert (rag["answers"], rag["users"]) == (EACH * users[Strategy.RAG], users[Strategy.RAG])
    assert (rpo["answers"], rpo["users"]) == (EACH * users[Strategy.RPO], users[Strategy.RPO])
    assert rag["fallback"] == 1 / EACH and rpo["fallback"] == 0
    difference = next(row for row in reply["differences"] if row["domain"] is None)
    assert (difference["strategy"], difference["verdict"]) == ("rpo", "better") and difference["low"] > 0
    assert difference["low"] < 0.8 - 0.45 * (1 - 1 / EACH) < difference["high"]
    text = compare(settings, "rag", "rpo")
    assert text.returncode == 0 and "rpo is better than rag" in text.stdout
    none = compare(settings, "icl", "rpo")
    assert none.returncode == 1 and "has no answers of icl, only of rag, rpo" in none.stderr
