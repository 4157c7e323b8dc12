"""The trainer on real topics: erasure requests, and data that is new since the last poll."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.errors import CannotContinue
from infra.kafka.clients import producer, send
from infra.local.broker import Broker
from infra.registry.client import Registry
from infra.settings import Settings, load
from schemas.erasures import ErasureRequest
from schemas.experiments import Arm
from schemas.ids import derive, is_held_out
from schemas.messages import Message
from schemas.quality import Metric, Moments, Quality, Span
from schemas.run_report import Trigger, TriggerKind
from schemas.topics import ERASURES, OUTCOMES, QUALITY, TRAJECTORIES, Topic
from tests.support.outcomes import NOON, make_outcome, make_trajectory
from tests.support.own_broker import own_broker
from tests.support.tiny_model import make_checkpoint
from trainer.data.collect import check_erasures, collect
from trainer.data.snapshot import load_snapshot, write_snapshot
from trainer.promotion.bootstrap import bootstrap
from trainer.run.quality_reader import QualityReader
from trainer.run.watch import TriggerWatch

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

USERS = [name for name in (f"u{n}" for n in range(40)) if not is_held_out("t", name, 0.3)][:10]
WINDOW = 40
WAIT_S = 60.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with own_broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def settings(running: Broker, tmp_path: Path) -> Settings:
    return load(
        kafka={"bootstrap_servers": running.bootstrap_servers},
        stack={"dir": tmp_path / "state"},
        reflection={"checkpoint": make_checkpoint(tmp_path / "parent", seed=1)},
        trainer={"drift_window": WINDOW, "new_outcomes": 3 * WINDOW, "user_share": 1.0},
    )


def window(begin: datetime, number: int, right: float) -> list[Quality]:
    """One window of online quality: one answer per user, a share of them right, for the champion and for a canary."""
    n, s = len(USERS), right * len(USERS)
    moments = Moments(users=n, n=n, s=s, nn=n, ss=s, ns=s)
    started = begin + timedelta(minutes=number)
    times = {"started_at": started, "ended_at": started + timedelta(minutes=1), "computed_at": started}
    fields = {"name": "m", "version": "1", "experiment": None, "partition": 0, "span": Span.WINDOW, "answers": n, "metrics": {Metric.REWARD: moments}}
    return [Quality(**fields, **times, arm=arm, domain=domain) for arm in (Arm.CHAMPION, Arm.CANARY) for domain in ("letters", None)]


def publish(settings: Settings, topic: Topic, *messages: Message) -> None:
    to = producer(settings, "test")
    for message in messages:
        send(to, topic, message, id=derive("told", message.to_bytes()), source="/test")
    to.close()


def read_to_end(quality: QualityReader) -> None:
    """Poll until the end of the topic, within a bound."""
    deadline = time.monotonic() + WAIT_S
    quality.poll()
    while not quality.is_current:
        assert time.monotonic() < deadline, f"the end was not reached within {WAIT_S:g} s"
        quality.poll()


def by_kind(triggers: list[Trigger]) -> dict[TriggerKind, Trigger]:
    return {trigger.kind: trigger for trigger in triggers}


def test_the_watch_reports_new_outcomes_and_worse_answers(settings: Settings) -> None:
    bootstrap(settings)
    stop, blocks = threading.Event(), range(3 * WINDOW // len(USERS))
    begin = datetime.now(UTC)
    with TriggerWatch(settings, Registry(settings)) as watch:
        publish(settings, OUTCOMES, *(make_outcome(n, user=USERS[n % len(USERS)]) for n in range(WINDOW)))
        publish(settings, QUALITY, *(cell for n in blocks for cell in window(begin, n, right=1.0)))
        first = by_kind(watch.poll(stop))
        assert not any(trigger.fired for trigger in first.values()) and first[TriggerKind.NEW_OUTCOMES].numbers["new"] == WINDOW
        publish(settings, QUALITY, *(cell for n in blocks for cell in window(begin, n + len(blocks), right=0.2)))
        worse = by_kind(watch.poll(stop))
        assert worse[TriggerKind.DRIFT].fired and worse[TriggerKind.DRIFT].numbers["drop"] == 0.8
        watch.attempted()
        after = by_kind(watch.poll(stop))
        assert not after[TriggerKind.DRIFT].fired and after[TriggerKind.NEW_OUTCOMES].numbers["new"] == 0
        publish(settings, OUTCOMES, *(make_outcome(n, user=USERS[n % len(USERS)]) for n in range(3 * WINDOW)))
        assert by_kind(watch.poll(stop))[TriggerKind.NEW_OUTCOMES].fired


def test_the_latest_record_of_each_cell_is_kept_and_malformed_ones_are_skipped(settings: Settings) -> None:
    experiment, begin = derive("experiment", settings.stack.dir), datetime.now(UTC)
    with QualityReader(settings) as quality:
        for answers in (1, 2):
            cells = [cell.model_copy(update={"experiment": experiment, "span": Span.EXPERIMENT, "answers": answers}) for cell in window(begin, 0, 1.0)]
            publish(settings, QUALITY, *cells)
            to = producer(settings, "test")
            to.send(QUALITY.name, key=b"m/1", value=b"not JSON")
            to.close()
            read_to_end(quality)
            assert {(cell.arm, cell.domain, cell.answers) for cell in quality.experiment(experiment)} == {
                (arm, domain, answers) for arm in (Arm.CHAMPION, Arm.CANARY) for domain in ("letters", None)
            }
        publish(settings, QUALITY, *window(begin, 10, 1.0), *(cell.model_copy(update={"version": "2"}) for cell in window(begin, 11, 1.0)))
        read_to_end(quality)
        since = begin + timedelta(minutes=10)
        assert {cell.started_at for cell in quality.windows("1", since)} >= {since}
        assert {cell.version for cell in quality.windows(None, since)} == {"1", "2"} and not quality.experiment(derive("experiment", "another"))


def test_an_evicted_experiment_is_read_again_from_the_beginning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.run.quality_reader.EXPERIMENTS", 1)
    older, newer = (derive("experiment", settings.stack.dir, name) for name in ("older", "newer"))
    begin = datetime.now(UTC)
    cells = [
        cell.model_copy(update={"experiment": experiment, "span": Span.EXPERIMENT})
        for minute, experiment in enumerate((older, newer))
        for cell in window(begin, minute, 1.0)
    ]
    publish(settings, QUALITY, *cells)
    with QualityReader(settings) as quality:
        read_to_end(quality)
        assert not quality.experiment(older) and not quality.is_current
        read_to_end(quality)
        assert sorted(cell.key for cell in quality.experiment(older)) == sorted(cell.key for cell in cells[:4])


def test_an_erased_user_is_left_out_and_ends_a_run_that_has_their_data(settings: Settings) -> None:
    stop, to = threading.Event(), producer(settings, "test")
    for user in USERS[:2]:
        trajectory = make_trajectory(make_outcome(1000, user=user))
        send(to, TRAJECTORIES, trajectory, id=trajectory.trajectory_id, source="/test")
    to.flush()
    whole = collect(settings, stop)
    write_snapshot(whole, settings, "test")
    stored = load_snapshot(settings, whole.digest)
    check_erasures(settings, stored, stop)
    for user in (USERS[0], "a-stranger"):
        request = ErasureRequest(request_id=derive("erasure", user), tenant="t", user=user, requested_at=NOON.replace(year=NOON.year + 1))
        send(to, ERASURES, request, id=request.request_id, source="/test")
    to.close()
    fewer = collect(settings, stop)
    assert f"t/{USERS[0]}" in whole.users() and f"t/{USERS[0]}" not in fewer.users() and fewer.counts["trajectories.erased"] == 1
    assert set(fewer.ranges) == {"outcomes", "trajectories", "erasures"} and sum(end for _, end in fewer.ranges["erasures"].values()) == 2
    check_erasures(settings, fewer, stop)
    with pytest.raises(CannotContinue, match="requested erasure since it was collected"):
        check_erasures(settings, stored, stop)
