"""Targets, and the figures of kills and of a poison user."""

from __future__ import annotations

from typing import Any

import pytest

from bench.targets import Bound, Target
from bench.workers.answers import TimedAnswer
from bench.workers.latency import histogram, kill_figures, timeline
from bench.workers.load import MARKED_USER, QuerySchedule
from bench.workers.poison import Variant, Window, compare, order
from bench.workers.targets import targets


def answer(asked: float, visible: float, *, user: str = "u001", partition: int = 0) -> TimedAnswer:
    return TimedAnswer(f"{user}-{asked}", user, partition, 0, asked, asked, asked, visible, 0.1, visible)


def arm(name: str, per_s: float, **more: Any) -> dict[str, Any]:
    delivery = "exactly_once" if name.startswith("eos") else "at_least_once"
    return {"arm": name, "per_s": per_s, "of_ideal": per_s / 100, "delivery": delivery, "order": "none", "repeats": 0, "out_of_order": 5} | more


def figures(**more: Any) -> dict[str, Any]:
    return {
        "throughput": [arm("eos-64", 95.0), arm("alo-64", 100.0), arm("eos-64-by-key", 90.0, order="key", out_of_order=0)],
        "latency": [{"rate_per_s": 50.0, "added_ms": {"p50": 50.0, "p99": 100.0}, "lost": 0, "repeats": 0}],
        "kill": {"longest_standstill_s": 2.0, "lost": 0, "repeats": 0},
        "poison": {"p99_change": {"retry": 0.01, "poison": -0.02, "flood": 0.05}, "without_spread": 0.02, "lost": 0, "repeats": 0},
    } | more


@pytest.mark.parametrize(
    ("bound", "measured", "met"),
    [
        (Bound.AT_LEAST, 1.0, True),
        (Bound.AT_LEAST, 0.9, False),
        (Bound.BELOW, 1.0, False),
        (Bound.BELOW, 0.9, True),
        (Bound.AT_MOST, 1.0, True),
        (Bound.AT_MOST, 1.1, False),
        (Bound.ABOVE, 1.0, False),
        (Bound.ABOVE, 1.1, True),
        (Bound.AT_MOST, None, False),
    ],
)
def test_a_target_is_met_within_its_bound_and_not_without_a_measurement(bound: Bound, measured: float | None, met: bool) -> None:
    assert Target("it", bound, 1.0, measured).met is met


def test_a_good_run_meets_every_target() -> None:
    assert all(target.met for target in targets(figures()))


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"throughput": [arm("eos-64", 89.0), arm("alo-64", 89.0), arm("eos-64-by-key", 9.0, order="key", out_of_order=0)]}, "share of in flight"),
        ({"throughput": [arm("eos-64", 95.0), arm("alo-64", 120.0), arm("eos-64-by-key", 9.0, order="key", out_of_order=0)]}, "share of at-least-once"),
        ({"throughput": [arm("eos-64", 95.0), arm("alo-64", 95.0), arm("eos-64-by-key", 9.0, order="key", out_of_order=1)]}, "out of order"),
        ({"throughput": [arm("eos-64", 95.0, repeats=1), arm("alo-64", 95.0), arm("eos-64-by-key", 9.0, order="key", out_of_order=0)]}, "answered twice"),
        ({"latency": [{"rate_per_s": 50.0, "added_ms": {"p50": 60.0, "p99": 100.0}, "lost": 0, "repeats": 0}]}, "p50"),
        ({"latency": [{"rate_per_s": 50.0, "added_ms": {"p50": 50.0, "p99": 131.0}, "lost": 0, "repeats": 0}]}, "p99 at"),
        ({"kill": {"longest_standstill_s": 3.1, "lost": 0, "repeats": 0}}, "standstill"),
        ({"kill": {"longest_standstill_s": 1.0, "lost": 1, "repeats": 0}}, "lost"),
        ({"poison": {"p99_change": {"flood": -0.3}, "without_spread": 0.8, "lost": 0, "repeats": 0}}, "flood"),  # too noisy to measure
        ({"poison": {"p99_change": {"flood": 0.11}, "without_spread": 0.02, "lost": 0, "repeats": 0}}, "flood"),
    ],
)
def test_a_bad_figure_misses_only_its_target(changed: dict[str, Any], missed: str) -> None:
    (missed_target,) = [target for target in targets(figures(**changed)) if not target.met]
    assert missed in missed_target.name
    assert missed_target.line().startswith("MISSED")


def test_a_target_is_read_back_from_the_report() -> None:
    target = Target("it", Bound.BELOW, 2.0, 1.0)
    assert Target.of(target.to_json()) == target


def test_a_standstill_belongs_to_the_last_kill_before_its_end() -> None:
    asking = QuerySchedule("t", 4, rate=1.0, begin_at=100.0)
    answers = [answer(100.0, 100.5), answer(101.0, 103.0), answer(103.5, 104.0), answer(104.5, 106.0)]
    kill_report = kill_figures(asking, [("one", 102.0), ("two", 105.0)], answers)
    assert [kill["longest_standstill_s"] for kill in kill_report["kills"]] == [{"0": 2.0}, {"0": 1.5}]
    assert (kill_report["longest_standstill_s"], kill_report["longest_before_any_kill_s"], kill_report["lost"]) == (2.0, 0.5, 0)


def test_queries_without_an_answer_are_lost() -> None:
    assert kill_figures(QuerySchedule("t", 5, rate=1.0, begin_at=100.0), [("one", 100.2)], [answer(100.0, 100.5)])["lost"] == 4


def test_a_timeline_counts_each_partitions_answers_in_bins() -> None:
    bins = timeline([answer(0.0, 10.05), answer(0.0, 10.25), answer(0.0, 10.27, partition=1)], 10.0)
    assert bins["by_partition"] == {"0": [1, 0, 1], "1": [0, 0, 1]}


def test_a_histogram_counts_every_value() -> None:
    assert histogram([-1.0, 4.0, 5.0, 12.0]) == {"width": 5.0, "counts": [2, 1, 1]}


def test_every_repetition_has_every_variant_and_a_different_first_one() -> None:
    rounds = order(3)
    assert [variant for _, variant in rounds[::4]] == [Variant.WITHOUT, Variant.RETRY, Variant.POISON]
    assert all({variant for number, variant in rounds if number == repetition} == set(Variant) for repetition in range(3))


def test_the_poison_users_own_answers_do_not_count_for_the_others() -> None:
    windows = [Window(variant, 0, 10.0 * number, 10.0 * number + 5) for number, variant in enumerate(Variant)]
    answers = [answer(window.begin_s + 1, window.begin_s + 1.5) for window in windows]
    answers += [answer(window.begin_s + 1, window.begin_s + 9, user=MARKED_USER) for window in windows]
    assert compare(windows, answers)["p99_change"] == {"retry": 0.0, "poison": 0.0, "flood": 0.0}


def test_one_disturbed_window_does_not_decide_the_comparison() -> None:
    windows = [Window(Variant.WITHOUT, number, 10.0 * number, 10.0 * number + 5) for number in range(3)] + [Window(Variant.FLOOD, 0, 30.0, 35.0)]
    comparison = compare(windows, [answer(1.0, 1.5), answer(11.0, 13.0), answer(21.0, 21.4), answer(31.0, 31.75)])
    assert comparison["p99_change"] == {"retry": None, "poison": None, "flood": 0.5}
    assert comparison["without_spread"] == 4.0
