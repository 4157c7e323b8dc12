"""Metrics of one partition: which records count, in which cells, how often, and for how long."""

from __future__ import annotations

import random

import pytest

from infra.settings.promotion import QualitySettings
from infra.telemetry.metrics import QUALITY_RECORDS, QUALITY_SHADOWS_GIVEN_UP
from schemas.domain_entries import DomainEntry
from schemas.domains import BUILT_IN_DOMAINS, Domains
from schemas.experiments import Arm
from schemas.ids import derive
from schemas.quality import Metric, Quality, Span
from schemas.responses import ResponseStatus
from schemas.topics import OUTCOMES, RESPONSES, SHADOWS
from streams.quality.checkpoint import ENDED, PartitionCheckpoint
from streams.quality.open_spans import IDLE_S, LATE_S, RecordRef
from streams.quality.partition_metrics import TOPICS, PartitionMetrics, QualityMessage
from tests.support.quality_records import EXPERIMENT, make_outcome, make_response, make_shadow

TOPIC = {topic.message: topic.name for topic in (RESPONSES, OUTCOMES, SHADOWS)}
BEGIN = 1_200_000.0


class PartitionUnderTest:
    """Metrics with a manual clock and offsets in order."""

    def __init__(self, entries: Domains = BUILT_IN_DOMAINS, **settings: float) -> None:
        self.now, self.entries = BEGIN, entries
        self.settings = QualitySettings(**settings)
        self.ends = dict.fromkeys(TOPICS, 0)
        self.reopen({})

    def reopen(self, checkpoints: dict[str, PartitionCheckpoint]) -> None:
        self.metrics = PartitionMetrics(1, "reflector", self.settings, self.entries, checkpoints, now=lambda: self.now)

    def count(self, *messages: QualityMessage, at: float | None = None) -> None:
        for message in messages:
            topic = TOPIC[type(message)]
            self.metrics.count(message, RecordRef(topic, self.ends[topic], self.now if at is None else at))
            self.ends[topic] += 1

    def take_cells(self, span: Span = Span.EXPERIMENT, domain: str | None = None) -> dict[Arm, Quality]:
        return {cell.arm: cell for cell in self.metrics.take_changed() if cell.span is span and cell.domain == domain}

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.metrics.release(TOPICS)


def reward(cell: Quality) -> tuple[int, float]:
    return cell.metrics[Metric.REWARD].n, cell.metrics[Metric.REWARD].mean


def test_an_answer_counts_once_in_its_domain_and_once_over_all_domains() -> None:
    partition = PartitionUnderTest()
    for domain in ("movie_tag", "book_tag"):
        response = make_response(len(domain), arm=Arm.CANARY, experiment=EXPERIMENT, version="4", domain=domain)
        partition.count(response, response, make_outcome(response), make_outcome(response), make_outcome(response, "drama", again=1))
    cells = {cell.domain: cell for cell in partition.metrics.take_changed() if cell.span is Span.EXPERIMENT}
    assert {(cell.name, cell.version, cell.arm, cell.experiment, cell.partition) for cell in cells.values()} == {("reflector", "4", Arm.CANARY, EXPERIMENT, 1)}
    assert {domain: (cell.answers, *reward(cell), cell.metrics[Metric.REWARD].users) for domain, cell in cells.items()} == {
        "movie_tag": (1, 1, 1.0, 1),
        "book_tag": (1, 1, 1.0, 1),
        None: (2, 2, 1.0, 1),
    }


def test_a_record_without_a_reward_because_the_measure_fails_is_counted_as_such() -> None:
    partition = PartitionUnderTest(Domains({"movie_tag": DomainEntry(reward="tests.support.own_measures:fails")}))
    failed, other = (make_response(number, version="4", domain=domain) for number, domain in ((1, "movie_tag"), (2, "book_tag")))
    labels = [(("outcome", outcome), ("topic", OUTCOMES.name)) for outcome in ("measure_failed", "counted")]
    before = [QUALITY_RECORDS.values().get(each, 0) for each in labels]
    partition.count(failed, other, make_outcome(failed), make_outcome(other))
    after = [QUALITY_RECORDS.values().get(each, 0) for each in labels]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]
    partition.advance(partition.settings.window_s)
    cells = {cell.domain: cell for cell in partition.metrics.take_changed() if cell.span is Span.WINDOW}
    assert reward(cells["book_tag"])[0] == 1 and Metric.REWARD not in cells["movie_tag"].metrics and cells["movie_tag"].answers == 1


def test_a_fallback_counts_for_the_version_that_should_have_answered() -> None:
    partition = PartitionUnderTest()
    partition.count(make_response(1, "drama", arm=Arm.CANARY, experiment=EXPERIMENT, version="4", model=None, status=ResponseStatus.REFLECTION_FAILED))
    (cell,) = partition.take_cells().values()
    assert (cell.version, cell.name, cell.statuses) == ("4", "reflector", {ResponseStatus.REFLECTION_FAILED: 1})
    assert cell.metrics[Metric.FALLBACK].mean == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_a_shadow_answer_is_scored_by_the_users_truth_in_any_order(order: tuple[int, ...]) -> None:
    partition, shown = PartitionUnderTest(), make_response(1, "drama", experiment=EXPERIMENT)
    messages: list[QualityMessage] = [shown, make_shadow(shown, "comedy"), make_outcome(shown)]
    partition.count(*(messages[index] for index in order))
    partition.count(messages[1], messages[2], make_outcome(shown, "drama", again=1))
    cells = partition.take_cells()
    assert reward(cells[Arm.SHADOW]) == (1, 1.0) and reward(cells[Arm.CHAMPION]) == (1, 0.0)
    assert cells[Arm.SHADOW].metrics[Metric.GAIN].mean == 1 and cells[Arm.SHADOW].version == "4"
    assert Metric.GAIN not in cells[Arm.CHAMPION].metrics and cells[Arm.SHADOW].answers == 1


def test_a_score_counts_only_for_the_answer_that_was_shown() -> None:
    partition, shown = PartitionUnderTest(), make_response(1, experiment=EXPERIMENT)
    partition.count(shown, make_shadow(shown), make_outcome(shown, None, 0.25))
    cells = partition.take_cells()
    assert reward(cells[Arm.CHAMPION]) == (1, 0.25) and Metric.REWARD not in cells[Arm.SHADOW].metrics


def test_the_oldest_waiting_shadow_answers_are_dropped() -> None:
    partition, before = PartitionUnderTest(waiting=2), sum(QUALITY_SHADOWS_GIVEN_UP.values().values())
    shown = [make_response(number, experiment=EXPERIMENT) for number in range(3)]
    partition.count(*map(make_shadow, shown))
    partition.count(*map(make_outcome, shown))
    assert partition.take_cells()[Arm.SHADOW].metrics[Metric.GAIN].n == 2
    assert sum(QUALITY_SHADOWS_GIVEN_UP.values().values()) == before + 1


def test_windows_are_published_at_their_end_and_experiments_while_they_run() -> None:
    partition, response = PartitionUnderTest(window_s=60), make_response(1, arm=Arm.BASELINE, experiment=EXPERIMENT)
    partition.count(response)
    assert {cell.span for cell in partition.metrics.take_changed()} == {Span.EXPERIMENT}
    partition.advance(60)
    (window,) = partition.take_cells(Span.WINDOW).values()
    assert (window.started_at.timestamp(), window.ended_at.timestamp(), window.answers) == (BEGIN, BEGIN + 60, 1)
    partition.count(make_outcome(response))
    partition.advance(60)
    (feedback,) = partition.take_cells(Span.WINDOW).values()
    assert feedback.started_at.timestamp() == BEGIN + 60 and feedback.answers == 0 and reward(feedback) == (1, 1.0)


def test_a_late_record_counts_until_its_window_is_final_and_not_after() -> None:
    partition = PartitionUnderTest(window_s=60)
    partition.count(make_response(1))
    partition.advance(LATE_S + 59)
    partition.count(make_response(2), at=BEGIN)
    assert partition.take_cells(Span.WINDOW)[Arm.CHAMPION].answers == 2
    partition.advance(1)
    partition.count(make_response(3), at=BEGIN)
    assert not partition.take_cells(Span.WINDOW)
    assert partition.metrics.checkpoint(RESPONSES.name, 3)[0] == 3


def test_a_slow_topic_keeps_windows_open() -> None:
    partition, response = PartitionUnderTest(window_s=60), make_response(1)
    partition.count(response, make_outcome(response))
    partition.now += 2 * LATE_S
    partition.count(make_response(2))
    partition.metrics.release({RESPONSES.name, SHADOWS.name})
    partition.count(make_outcome(make_response(3)), at=BEGIN)
    assert reward(next(cell for cell in partition.metrics.take_changed() if cell.started_at.timestamp() == BEGIN)) == (2, 1.0)


def test_a_record_from_the_future_counts_in_its_experiment_and_opens_no_window() -> None:
    partition = PartitionUnderTest(window_s=60)
    partition.count(make_response(1, experiment=EXPERIMENT), at=BEGIN + 10 * 365 * 86_400)
    assert partition.take_cells()[Arm.CHAMPION].answers == 1
    partition.advance(IDLE_S + 1)
    assert partition.metrics.checkpoint(RESPONSES.name, 1) == (
        1,
        PartitionCheckpoint(read_to=1, released=(partition.now - LATE_S) // 60 * 60, clock=BEGIN, ended=(EXPERIMENT,)),
    )


def test_a_late_record_does_not_restart_an_ended_experiment() -> None:
    partition = PartitionUnderTest()
    partition.count(make_response(1, experiment=EXPERIMENT))
    partition.advance(IDLE_S + 1)
    partition.count(make_response(2, experiment=EXPERIMENT))
    partition.reopen({RESPONSES.name: partition.metrics.checkpoint(RESPONSES.name, 2)[1]})
    partition.count(make_response(3, experiment=EXPERIMENT))
    assert not partition.take_cells()


def test_rewards_of_a_window_are_given_by_domain() -> None:
    partition = PartitionUnderTest(window_s=60)
    for number, arm in enumerate((Arm.CANARY, Arm.CANARY, Arm.BASELINE)):
        response = make_response(number, user=f"u{number}", arm=arm, experiment=EXPERIMENT)
        partition.count(response, make_outcome(response, ("comedy", "drama")[number % 2]))
    rewards = {(cell.arm, cell.domain): (moments.n, moments.mean) for cell, moments in partition.metrics.rewards(BEGIN)}
    assert rewards == {(Arm.CANARY, "movie_tag"): (2, 0.5), (Arm.BASELINE, "movie_tag"): (1, 1.0)} and not list(partition.metrics.rewards(BEGIN + 60))


def test_metrics_are_not_rebuilt_before_their_topics_are_read_again() -> None:
    partition = PartitionUnderTest()
    partition.reopen({RESPONSES.name: PartitionCheckpoint(read_to=5), OUTCOMES.name: PartitionCheckpoint(read_to=2)})
    assert not partition.metrics.is_rebuilt({RESPONSES.name: 5, OUTCOMES.name: 1})
    assert partition.metrics.is_rebuilt({OUTCOMES.name: 2})


def test_an_experiment_whose_records_are_deleted_counts_no_further() -> None:
    after_loss = PartitionCheckpoint(read_to=9, clock=BEGIN, live=(EXPERIMENT,)).after_data_loss()
    assert after_loss.ended == (EXPERIMENT,) and after_loss.released == BEGIN and not after_loss.live
    many = PartitionCheckpoint(live=(EXPERIMENT,), ended=tuple(derive("experiment", number) for number in range(ENDED)))
    assert len(many.after_data_loss().ended) == ENDED and EXPERIMENT in many.after_data_loss().ended


def test_a_checkpoint_fits_the_broker_and_foreign_metadata_is_an_empty_one() -> None:
    ids = tuple(derive("experiment", number) for number in range(ENDED))
    checkpoint = PartitionCheckpoint(read_to=10**12, released=1e9 + 0.123456, clock=1e9 + 0.123456, live=ids[:8], ended=ids)
    assert PartitionCheckpoint.parse(checkpoint.model_dump_json()) == checkpoint and len(checkpoint.model_dump_json()) < 4_096
    assert PartitionCheckpoint.parse("") == PartitionCheckpoint.parse("v1:another program's") == PartitionCheckpoint()


def test_the_same_records_in_any_order_of_topics_make_the_same_cells() -> None:
    def cells(seed: int) -> dict[bytes, object]:
        partition, rng = PartitionUnderTest(window_s=60), random.Random(seed)
        shown = [make_response(n, rng0.choice(("comedy", "drama")), user=f"u{n % 7}", experiment=EXPERIMENT) for rng0 in [random.Random(0)] for n in range(60)]
        logs: list[list[QualityMessage]] = [
            list(shown),
            [make_outcome(response) for response in shown[::2]],
            [make_shadow(response) for response in shown[::3]],
        ]
        while any(logs):
            partition.count(rng.choice([log for log in logs if log]).pop(0))
        partition.advance(60)
        return {cell.key: cell.model_dump(exclude={"computed_at"}) for cell in partition.metrics.take_changed()}

    assert cells(1) == cells(2) == cells(3)


@pytest.mark.parametrize("timestamp_ms", [-(2**62), -1, 0, 253_402_300_800_000, 2**62])
def test_a_timestamp_outside_the_range_of_dates_is_clipped(timestamp_ms: int) -> None:
    partition = PartitionUnderTest()
    partition.count(make_response(1, experiment=EXPERIMENT, arm=Arm.CANARY), at=RecordRef.of("", 0, timestamp_ms).at)
    partition.count(make_response(2, experiment=EXPERIMENT, arm=Arm.CANARY))
    cells = partition.metrics.take_changed()
    assert {cell.answers for cell in cells if cell.span is Span.EXPERIMENT} == {2}


def test_other_content_under_a_counted_id_does_not_count() -> None:
    partition = PartitionUnderTest()
    response = make_response(1, arm=Arm.CANARY, experiment=EXPERIMENT, version="4")
    query = response.context.draft.query.model_copy(update={"text": "another film"})
    draft = response.context.draft.model_copy(update={"query": query})
    other = response.model_copy(update={"context": response.context.model_copy(update={"draft": draft})})
    remade = response.model_copy(update={"answer": "other model words"})
    outcome = make_outcome(response)
    conflicts, repeats = outcomes_of(RESPONSES.name)
    partition.count(response, other, remade, outcome, outcome.model_copy(update={"truth": "drama"}))
    cell = partition.take_cells()[Arm.CANARY]
    assert (cell.answers, reward(cell)) == (1, (1, 1.0))
    assert outcomes_of(RESPONSES.name) == (conflicts + 1, repeats + 1)


def test_two_users_queries_with_one_id_count_twice() -> None:
    partition = PartitionUnderTest()
    mine, theirs = (make_response(1, user=user, arm=Arm.CHAMPION, experiment=EXPERIMENT) for user in ("alice", "bob"))
    query = theirs.context.draft.query.model_copy(update={"query_id": mine.query_id})
    draft = theirs.context.draft.model_copy(update={"query": query})
    theirs = theirs.model_copy(update={"query_id": mine.query_id, "context": theirs.context.model_copy(update={"draft": draft})})
    for response in (mine, theirs):
        partition.count(response, make_shadow(response), make_outcome(response))
    cells = partition.take_cells()
    assert (cells[Arm.CHAMPION].answers, cells[Arm.SHADOW].answers, reward(cells[Arm.SHADOW])[0]) == (2, 2, 2)


def outcomes_of(topic: str) -> tuple[float, float]:
    """Conflicts and repeats that were counted."""
    counted = QUALITY_RECORDS.values()
    conflicts, repeats = (counted.get((("outcome", outcome), ("topic", topic)), 0) for outcome in ("conflict", "repeat"))
    return conflicts, repeats
