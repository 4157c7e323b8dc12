"""One partition's figures: what counts, where, how often, and for how long."""

from __future__ import annotations

import random

import pytest

from infra.settings import QualitySettings
from infra.telemetry.metrics import QUALITY_SHADOWS_GIVEN_UP
from schemas.experiments import Arm
from schemas.ids import derive
from schemas.quality import Metric, Quality, Span
from schemas.responses import ResponseStatus
from schemas.topics import OUTCOMES, RESPONSES, SHADOWS
from streams.quality.checkpoint import ENDED, Mark
from streams.quality.partition_metrics import IDLE_S, LATE_S, TOPICS, Book, Place, Read
from tests.unit.streams.quality.records import EXPERIMENT, answered, judged, unseen

TOPIC = {topic.message: topic.name for topic in (RESPONSES, OUTCOMES, SHADOWS)}
BEGIN = 1_200_000.0


class Partition:
    """A book with a clock moved by hand, and offsets given out in order."""

    def __init__(self, **settings: float) -> None:
        self.now = BEGIN
        self.settings = QualitySettings(**settings)
        self.ends = dict.fromkeys(TOPICS, 0)
        self.reopen({})

    def reopen(self, marks: dict[str, Mark]) -> None:
        self.book = Book(1, "reflector", self.settings, marks, now=lambda: self.now)

    def take(self, *messages: Read, at: float | None = None) -> None:
        for message in messages:
            topic = TOPIC[type(message)]
            self.book.take(message, Place(topic, self.ends[topic], self.now if at is None else at))
            self.ends[topic] += 1

    def told(self, span: Span = Span.EXPERIMENT, domain: str | None = None) -> dict[Arm, Quality]:
        return {cell.arm: cell for cell in self.book.take_changed() if cell.span is span and cell.domain == domain}

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.book.release(TOPICS)


def reward(cell: Quality) -> tuple[int, float]:
    return cell.metrics[Metric.REWARD].n, cell.metrics[Metric.REWARD].mean


def test_an_answer_counts_once_by_its_version_arm_and_domain_and_over_all_domains() -> None:
    on = Partition()
    for domain in ("movie_tag", "book_tag"):
        response = answered(len(domain), arm=Arm.CANARY, experiment=EXPERIMENT, version="4", domain=domain)
        on.take(response, response, judged(response), judged(response), judged(response, "drama", again=1))
    cells = {cell.domain: cell for cell in on.book.take_changed() if cell.span is Span.EXPERIMENT}
    assert {(cell.name, cell.version, cell.arm, cell.experiment, cell.partition) for cell in cells.values()} == {("reflector", "4", Arm.CANARY, EXPERIMENT, 1)}
    assert {domain: (cell.answers, *reward(cell), cell.metrics[Metric.REWARD].users) for domain, cell in cells.items()} == {
        "movie_tag": (1, 1, 1.0, 1),
        "book_tag": (1, 1, 1.0, 1),
        None: (2, 2, 1.0, 1),
    }


def test_a_fallback_counts_for_the_version_that_should_have_answered() -> None:
    on = Partition()
    on.take(answered(1, "drama", arm=Arm.CANARY, experiment=EXPERIMENT, version="4", model=None, status=ResponseStatus.REFLECTION_FAILED))
    (cell,) = on.told().values()
    assert (cell.version, cell.name, cell.statuses) == ("4", "reflector", {ResponseStatus.REFLECTION_FAILED: 1})
    assert cell.metrics[Metric.FALLBACK].mean == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_a_shadow_answer_is_judged_by_the_users_word_whichever_comes_first(order: tuple[int, ...]) -> None:
    on, shown = Partition(), answered(1, "drama", experiment=EXPERIMENT)
    messages: list[Read] = [shown, unseen(shown, "comedy"), judged(shown)]
    on.take(*(messages[place] for place in order))
    on.take(messages[1], messages[2], judged(shown, "drama", again=1))
    cells = on.told()
    assert reward(cells[Arm.SHADOW]) == (1, 1.0) and reward(cells[Arm.CHAMPION]) == (1, 0.0)
    assert cells[Arm.SHADOW].metrics[Metric.GAIN].mean == 1 and cells[Arm.SHADOW].version == "4"
    assert Metric.GAIN not in cells[Arm.CHAMPION].metrics and cells[Arm.SHADOW].answers == 1


def test_a_score_judges_only_the_answer_that_was_shown() -> None:
    on, shown = Partition(), answered(1, experiment=EXPERIMENT)
    on.take(shown, unseen(shown), judged(shown, None, 0.25))
    cells = on.told()
    assert reward(cells[Arm.CHAMPION]) == (1, 0.25) and Metric.REWARD not in cells[Arm.SHADOW].metrics


def test_of_shadow_answers_that_wait_the_oldest_are_given_up() -> None:
    on, before = Partition(waiting=2), sum(QUALITY_SHADOWS_GIVEN_UP.values().values())
    shown = [answered(number, experiment=EXPERIMENT) for number in range(3)]
    on.take(*map(unseen, shown))
    on.take(*map(judged, shown))
    assert on.told()[Arm.SHADOW].metrics[Metric.GAIN].n == 2
    assert sum(QUALITY_SHADOWS_GIVEN_UP.values().values()) == before + 1


def test_windows_are_told_when_they_are_over_and_an_experiment_while_it_fills() -> None:
    on, response = Partition(window_s=60), answered(1, arm=Arm.BASELINE, experiment=EXPERIMENT)
    on.take(response)
    assert {cell.span for cell in on.book.take_changed()} == {Span.EXPERIMENT}
    on.later(60)
    (window,) = on.told(Span.WINDOW).values()
    assert (window.started_at.timestamp(), window.ended_at.timestamp(), window.answers) == (BEGIN, BEGIN + 60, 1)
    on.take(judged(response))
    on.later(60)
    (feedback,) = on.told(Span.WINDOW).values()
    assert feedback.started_at.timestamp() == BEGIN + 60 and feedback.answers == 0 and reward(feedback) == (1, 1.0)


def test_a_late_record_counts_until_its_window_is_final_and_never_begins_it_anew() -> None:
    on = Partition(window_s=60)
    on.take(answered(1))
    on.later(LATE_S + 59)
    on.take(answered(2), at=BEGIN)
    assert on.told(Span.WINDOW)[Arm.CHAMPION].answers == 2
    on.later(1)
    on.take(answered(3), at=BEGIN)
    assert not on.told(Span.WINDOW)
    assert on.book.low_water(RESPONSES.name, 3)[0] == 3


def test_a_topic_that_is_behind_keeps_windows_open() -> None:
    on, response = Partition(window_s=60), answered(1)
    on.take(response, judged(response))
    on.now += 2 * LATE_S
    on.take(answered(2))
    on.book.release({RESPONSES.name, SHADOWS.name})
    on.take(judged(answered(3)), at=BEGIN)
    assert reward(next(cell for cell in on.book.take_changed() if cell.started_at.timestamp() == BEGIN)) == (2, 1.0)


def test_a_record_from_the_future_counts_in_its_experiment_and_opens_no_window() -> None:
    on = Partition(window_s=60)
    on.take(answered(1, experiment=EXPERIMENT), at=BEGIN + 10 * 365 * 86_400)
    assert on.told()[Arm.CHAMPION].answers == 1
    on.later(IDLE_S + 1)
    assert on.book.low_water(RESPONSES.name, 1) == (1, Mark(read_to=1, released=(on.now - LATE_S) // 60 * 60, clock=BEGIN, ended=(EXPERIMENT,)))


def test_an_experiment_that_is_over_is_not_begun_anew_by_a_straggler() -> None:
    on = Partition()
    on.take(answered(1, experiment=EXPERIMENT))
    on.later(IDLE_S + 1)
    on.take(answered(2, experiment=EXPERIMENT))
    on.reopen({RESPONSES.name: on.book.low_water(RESPONSES.name, 2)[1]})
    on.take(answered(3, experiment=EXPERIMENT))
    assert not on.told()


def test_the_reward_of_a_window_is_shown_by_domain() -> None:
    on = Partition(window_s=60)
    for number, arm in enumerate((Arm.CANARY, Arm.CANARY, Arm.BASELINE)):
        response = answered(number, user=f"u{number}", arm=arm, experiment=EXPERIMENT)
        on.take(response, judged(response, ("comedy", "drama")[number % 2]))
    found = {(cell.arm, cell.domain): (moments.n, moments.mean) for cell, moments in on.book.rewards(BEGIN)}
    assert found == {(Arm.CANARY, "movie_tag"): (2, 0.5), (Arm.BASELINE, "movie_tag"): (1, 1.0)} and not list(on.book.rewards(BEGIN + 60))


def test_figures_are_not_told_before_they_are_made_again() -> None:
    on = Partition()
    on.reopen({RESPONSES.name: Mark(read_to=5), OUTCOMES.name: Mark(read_to=2)})
    assert not on.book.is_rebuilt({RESPONSES.name: 5, OUTCOMES.name: 1})
    assert on.book.is_rebuilt({OUTCOMES.name: 2})


def test_an_experiment_whose_records_are_gone_stays_as_it_was_told_last() -> None:
    torn = Mark(read_to=9, clock=BEGIN, live=(EXPERIMENT,)).torn()
    assert torn.ended == (EXPERIMENT,) and torn.released == BEGIN and not torn.live
    many = Mark(live=(EXPERIMENT,), ended=tuple(derive("experiment", number) for number in range(ENDED)))
    assert len(many.torn().ended) == ENDED and EXPERIMENT in many.torn().ended


def test_a_commits_words_fit_the_broker_and_strange_ones_count_as_none() -> None:
    ids = tuple(derive("experiment", number) for number in range(ENDED))
    mark = Mark(read_to=10**12, released=1e9 + 0.123456, clock=1e9 + 0.123456, live=ids[:8], ended=ids)
    assert Mark.of(mark.model_dump_json()) == mark and len(mark.model_dump_json()) < 4_096
    assert Mark.of("") == Mark.of("v1:somebody else's") == Mark()


def test_the_same_records_in_any_order_of_topics_make_the_same_cells() -> None:
    def cells(seed: int) -> dict[bytes, object]:
        on, rng = Partition(window_s=60), random.Random(seed)
        shown = [answered(n, rng0.choice(("comedy", "drama")), user=f"u{n % 7}", experiment=EXPERIMENT) for rng0 in [random.Random(0)] for n in range(60)]
        logs: list[list[Read]] = [list(shown), [judged(one) for one in shown[::2]], [unseen(one) for one in shown[::3]]]
        while any(logs):
            on.take(rng.choice([log for log in logs if log]).pop(0))
        on.later(60)
        return {cell.key: cell.model_dump(exclude={"computed_at"}) for cell in on.book.take_changed()}

    assert cells(1) == cells(2) == cells(3)


@pytest.mark.parametrize("timestamp_ms", [-(2**62), -1, 0, 253_402_300_800_000, 2**62])
def test_a_timestamp_that_is_no_instant_stops_nobody(timestamp_ms: int) -> None:
    partition = Partition()
    partition.take(answered(1, experiment=EXPERIMENT, arm=Arm.CANARY), at=Place.of("", 0, timestamp_ms).at)
    partition.take(answered(2, experiment=EXPERIMENT, arm=Arm.CANARY))
    cells = partition.book.take_changed()
    assert {cell.answers for cell in cells if cell.span is Span.EXPERIMENT} == {2}
