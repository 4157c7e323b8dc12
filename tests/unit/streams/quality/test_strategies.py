"""Answers of different strategies: in which cells they count, how they are measured, and when a comparison ends."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.settings.promotion import QualitySettings
from schemas.domains import BUILT_IN_DOMAINS
from schemas.experiments import Arm
from schemas.ids import derive
from schemas.quality import Metric, Quality, Span, comparison_id
from schemas.responses import ResponseStatus
from schemas.strategies import Strategy
from streams.quality.checkpoint import ENDED, PartitionCheckpoint
from streams.quality.measures import strategy_outcome_values, strategy_response_values
from streams.quality.open_spans import COMPARISONS, IDLE_S, RecordRef
from streams.quality.partition_metrics import TOPICS, PartitionMetrics, QualityMessage
from tests.support.quality_records import EXPERIMENT, make_outcome, make_response, make_shadow
from tests.support.streams_fakes import NOON

BEGIN = NOON.timestamp()
HOUR_S = 3_600.0
TOPIC = dict(zip(("Response", "Outcome", "Shadow"), TOPICS, strict=True))


class Partition:
    def __init__(self, comparison_max_s: float = HOUR_S) -> None:
        self.now, self.end = BEGIN, 0
        self.settings = QualitySettings(comparison_max_s=comparison_max_s)
        self.reopen({})

    def reopen(self, checkpoints: dict[str, PartitionCheckpoint]) -> None:
        self.metrics = PartitionMetrics(0, "reflector", self.settings, BUILT_IN_DOMAINS, checkpoints, now=lambda: self.now)

    def count(self, *messages: QualityMessage) -> None:
        for message in messages:
            self.metrics.count(message, RecordRef(TOPIC[type(message).__name__], self.end, self.now))
            self.end += 1

    def answer(self, number: int, answer: str = "comedy", **facts: Any) -> None:
        """An answer now, with feedback."""
        response = make_response(number, answer, answered_at=datetime.fromtimestamp(self.now, UTC), **facts)
        self.count(response, make_outcome(response))

    def taken(self) -> list[Quality]:
        """The changed cells of all domains together."""
        return [cell for cell in self.metrics.take_changed() if cell.domain is None]

    def windows(self) -> dict[Strategy, Quality]:
        self.now += self.settings.window_s
        return {cell.strategy: cell for cell in self.taken() if cell.span is Span.WINDOW}

    def comparison(self, name: str = "autumn") -> dict[Strategy, Quality]:
        return {cell.strategy: cell for cell in self.taken() if cell.comparison == name}


def rewarded(cell: Quality) -> tuple[int, int, float]:
    reward = cell.metrics[Metric.REWARD]
    return cell.answers, reward.n, reward.mean


def test_an_answer_of_another_strategy_counts_for_no_version() -> None:
    partition = Partition()
    partition.answer(1, strategy=Strategy.RAG)
    partition.answer(2, "drama")
    windows = partition.windows()
    assert {strategy: rewarded(cell) for strategy, cell in windows.items()} == {Strategy.RAG: (1, 1, 1.0), Strategy.RPO: (1, 1, 0.0)}
    rag = windows[Strategy.RAG]
    assert (rag.name, rag.version, rag.arm, rag.experiment, rag.comparison, rag.is_of_version) == ("", "", Arm.CHAMPION, None, None, False)
    assert set(rag.metrics) == {Metric.REWARD, Metric.FALLBACK, Metric.LATENCY_MS}


def test_an_answer_of_rpo_counts_for_its_version_and_for_its_strategy() -> None:
    partition = Partition()
    partition.answer(1, comparison="autumn", experiment=EXPERIMENT, arm=Arm.CANARY, version="4")
    partition.answer(2, comparison="autumn")
    partition.answer(3, "drama", comparison="autumn", strategy=Strategy.RAG, user="bob")
    cells = partition.taken()
    of_versions = [cell for cell in cells if cell.is_of_version]
    assert {(cell.version, cell.experiment, cell.span, cell.answers) for cell in of_versions} == {("4", EXPERIMENT, Span.EXPERIMENT, 1)}
    compared = {cell.strategy: cell for cell in cells if cell.comparison}
    assert {strategy: rewarded(cell) for strategy, cell in compared.items()} == {Strategy.RPO: (2, 2, 1.0), Strategy.RAG: (1, 1, 0.0)}
    assert {(cell.experiment, cell.comparison, cell.span, cell.name, cell.version) for cell in compared.values()} == {
        (comparison_id("autumn"), "autumn", Span.EXPERIMENT, "", "")
    }


def test_a_comparison_counts_only_answers_whose_strategy_it_chose() -> None:
    partition = Partition()
    partition.answer(1, strategy=Strategy.RAG)
    partition.answer(2, comparison="autumn", strategy=Strategy.RAG)
    cells = partition.taken()
    assert [(cell.comparison, cell.answers) for cell in cells] == [("autumn", 1)]
    assert partition.windows()[Strategy.RAG].answers == 2


@pytest.mark.parametrize(
    ("status", "facts", "fallback"),
    [
        (ResponseStatus.PERSONALIZED, {}, 0.0),
        (ResponseStatus.ZERO_SHOT, {}, 0.0),
        (ResponseStatus.PERSONALIZED, {"answered_by": Strategy.RAG}, 1.0),
        (ResponseStatus.NO_HISTORY, {"answered_by": Strategy.ZERO_SHOT}, 1.0),
        (ResponseStatus.UNPARSABLE, {}, 1.0),
        (ResponseStatus.BASE_FAILED, {}, 1.0),
    ],
)
@pytest.mark.parametrize("strategy", [Strategy.RPO, Strategy.PAG])
def test_a_simpler_strategys_answer_counts_for_the_chosen_one(status: ResponseStatus, facts: dict[str, Any], fallback: float, strategy: Strategy) -> None:
    response = make_response(1, status=status, comparison="autumn", strategy=strategy, assignment=None, model=None, reflect_ms=3.0, **facts)
    partition = Partition()
    partition.count(response, make_outcome(response))
    (cell,) = partition.comparison().values()
    assert (cell.strategy, rewarded(cell), cell.statuses) == (strategy, (1, 1, 1.0), {status: 1})
    assert cell.metrics[Metric.FALLBACK].mean == fallback and cell.metrics[Metric.LATENCY_MS].mean == 5.0
    assert strategy_response_values(response)[Metric.FALLBACK] == fallback


@pytest.mark.parametrize(
    ("options", "truth", "lowest"), [(("comedy", "drama"), "comedy", 0.0), (("1", "2", "3", "4", "5"), "5", 0.0), ((), "what a film", 0.0)]
)
@pytest.mark.parametrize("status", [ResponseStatus.BASE_FAILED, ResponseStatus.EXPIRED])
def test_a_query_without_an_answer_scores_lowest(options: tuple[str, ...], truth: str, lowest: float, status: ResponseStatus) -> None:
    for strategy in (Strategy.RPO, Strategy.RAG):
        response = make_response(1, "", base="", options=options, status=status, strategy=strategy, model=None, assignment=None)
        assert strategy_outcome_values(make_outcome(response, truth), BUILT_IN_DOMAINS) == {Metric.REWARD: lowest}


def test_a_users_own_score_counts_without_a_usable_truth() -> None:
    response = make_response(1, strategy=Strategy.RAG)
    assert strategy_outcome_values(make_outcome(response, "a genre that was no option", 0.25), BUILT_IN_DOMAINS) == {Metric.REWARD: 0.25}
    assert strategy_outcome_values(make_outcome(response, "drama", 0.25), BUILT_IN_DOMAINS) == {Metric.REWARD: 0.0}
    assert strategy_outcome_values(make_outcome(response, "a genre that was no option"), BUILT_IN_DOMAINS) == {}


STATUSES = st.sampled_from(list(ResponseStatus))
ANSWERS = st.lists(st.tuples(st.integers(0, 5), st.booleans(), STATUSES, st.booleans(), st.sampled_from([None, "autumn", "winter"])), max_size=25)


@settings(max_examples=60, deadline=None)
@given(ANSWERS, ANSWERS, st.sampled_from([strategy for strategy in Strategy if strategy is not Strategy.RPO]), st.integers(0, 2**32))
def test_no_version_figure_changes_if_other_strategies_answer_too(own: list[Any], other: list[Any], strategy: Strategy, seed: int) -> None:
    def messages(number: int, fields: Any, **facts: Any) -> list[QualityMessage]:
        user, is_right, status, has_feedback, comparison = fields
        response = make_response(number, "comedy" if is_right else "drama", user=f"u{user}", status=status, comparison=comparison, **facts)
        return [response, make_outcome(response)] if has_feedback else [response]

    def of_versions(batches: list[list[QualityMessage]]) -> dict[bytes, dict[str, Any]]:
        partition = Partition()
        for batch in batches:
            partition.count(*batch)
        partition.now += partition.settings.window_s
        return {cell.key: cell.model_dump(exclude={"computed_at"}) for cell in partition.metrics.take_changed() if cell.is_of_version}

    rng = random.Random(seed)
    arms = [rng.choice((Arm.CHAMPION, Arm.BASELINE, Arm.CANARY)) for _ in own]
    mine = [messages(number, fields, arm=arm, experiment=EXPERIMENT) for number, (fields, arm) in enumerate(zip(own, arms, strict=True))]
    for batch, arm in zip(mine, arms, strict=True):
        if arm is Arm.CHAMPION and batch[0].provenance.assignment:  # type: ignore[union-attr]
            batch.insert(1, make_shadow(batch[0]))  # type: ignore[arg-type]
    mixed = list(mine)
    for number, fields in enumerate(other):
        mixed.insert(rng.randint(0, len(mixed)), messages(1_000 + number, fields, strategy=strategy))
    assert of_versions(mixed) == of_versions(mine)


def test_a_comparison_counts_the_answers_of_its_time_and_their_late_feedback() -> None:
    partition = Partition()
    partition.answer(1, comparison="autumn")
    partition.now += HOUR_S - 1
    late = make_response(2, comparison="autumn", answered_at=datetime.fromtimestamp(partition.now, UTC))
    partition.count(late)
    partition.now += 1
    partition.answer(3, comparison="autumn")
    partition.now += IDLE_S - 60
    partition.metrics.release(TOPICS)
    partition.count(make_outcome(late))
    assert rewarded(partition.comparison()[Strategy.RPO]) == (2, 2, 1.0)


def test_a_comparison_whose_time_is_over_does_not_begin_again() -> None:
    """However long its name is routed, and however many experiments end after it."""
    partition = Partition()
    partition.answer(0, comparison="autumn")
    partition.now += HOUR_S + IDLE_S + 1
    partition.metrics.release(TOPICS)
    for number in range(1, 2 * ENDED):
        partition.answer(number, comparison="autumn", experiment=derive("experiment", number))
        partition.taken()
        partition.now += IDLE_S + 1
        partition.metrics.release(TOPICS)
        _, checkpoint = partition.metrics.checkpoint(TOPICS[0], partition.end)
        partition.reopen({TOPICS[0]: PartitionCheckpoint.parse(checkpoint.model_dump_json())})
    partition.answer(2 * ENDED, comparison="autumn")
    assert not partition.comparison()
    partition.answer(2 * ENDED + 1, comparison="winter")
    assert partition.comparison("winter")[Strategy.RPO].answers == 1


def test_days_without_traffic_do_not_end_a_comparison() -> None:
    partition = Partition(comparison_max_s=5 * IDLE_S)
    partition.answer(1, comparison="autumn")
    partition.now += 2 * IDLE_S
    partition.metrics.release(TOPICS)
    partition.answer(2, comparison="autumn")
    assert partition.comparison()[Strategy.RPO].answers == 2


def test_a_restart_reads_a_comparison_from_its_first_record() -> None:
    partition = Partition()
    partition.count(make_response(0, strategy=Strategy.RAG))
    partition.answer(1, comparison="autumn", strategy=Strategy.RAG)
    partition.now += 1_000
    partition.metrics.release(TOPICS)
    offset, checkpoint = partition.metrics.checkpoint(TOPICS[0], partition.end)
    assert offset == 1 and checkpoint.begun == {comparison_id("autumn"): BEGIN} and checkpoint.live == (comparison_id("autumn"),)
    partition.reopen({TOPICS[0]: checkpoint})
    partition.now += HOUR_S - 1_000
    partition.answer(2, comparison="autumn", strategy=Strategy.RAG)
    assert not partition.comparison()


def test_beyond_a_number_of_comparisons_the_oldest_ends() -> None:
    partition = Partition(comparison_max_s=5 * IDLE_S)
    for number in range(ENDED + COMPARISONS):
        partition.answer(number, comparison=f"comparison-{number}")
        partition.now += 1
        partition.metrics.release(TOPICS)
    _, checkpoint = partition.metrics.checkpoint(TOPICS[0], partition.end)
    newest = {comparison_id(f"comparison-{number}") for number in range(ENDED, ENDED + COMPARISONS)}
    assert set(checkpoint.begun) == newest == set(checkpoint.live) and len(checkpoint.ended) == ENDED
    assert len(checkpoint.model_dump_json()) < 4_096


def test_the_keys_of_versions_are_those_of_stored_cells() -> None:
    """Other keys would leave the stored record of a window beside the new one, and both would count."""
    partition = Partition()
    partition.answer(1, experiment=EXPERIMENT, arm=Arm.CANARY, comparison="autumn", version="4")
    partition.answer(2, strategy=Strategy.RAG, comparison="autumn")
    partition.now += partition.settings.window_s
    keys = {cell.key.decode() for cell in partition.metrics.take_changed() if cell.domain is None}
    began = datetime.fromtimestamp(BEGIN, UTC).isoformat()
    assert keys == {
        f"reflector/4/{EXPERIMENT}/canary/-/0/window/{began}",
        f"reflector/4/{EXPERIMENT}/canary/-/0/experiment/-",
        f"//-/champion/-/0/window/{began}/rag/-",
        f"//{comparison_id('autumn')}/champion/-/0/experiment/-/rpo/autumn",
        f"//{comparison_id('autumn')}/champion/-/0/experiment/-/rag/autumn",
    }
