"""Measures by name: the scale's error, chrF, and entry points."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.measures import MEASURES, MeasureFailed, chrf, measure_of, metrics, ordinal_error, ordinal_score
from schemas.scoring import METRIC, Pair
from schemas.tasks import STARS, Task

SCALE = ("P1", "P2", "P3", "P4")


@pytest.mark.parametrize(
    ("answer", "truth", "error"),
    [("P2", "P2", 0), ("P1", "P2", 1), ("P4", "P1", 3), (" p3 ", "P1", 2), ("urgent", "P1", 3), ("urgent", "P3", 2), ("", "P4", 3)],
)
def test_the_ordinal_error_counts_steps_on_the_scale(answer: str, truth: str, error: int) -> None:
    assert ordinal_error(answer, truth, SCALE) == error
    assert ordinal_score(answer, truth, SCALE) == pytest.approx(1 - error / 3)


@given(st.integers(2, 12), st.data())
def test_the_ordinal_score_is_a_reward_and_falls_with_the_distance(length: int, data: st.DataObject) -> None:
    scale = tuple(f"grade {number}" for number in range(length))
    truth = data.draw(st.integers(0, length - 1))
    scores = [ordinal_score(option, scale[truth], scale) for option in scale]
    assert all(0 <= score <= 1 for score in scores) and scores[truth] == 1.0
    assert scores == sorted(scores[: truth + 1]) + sorted(scores[truth + 1 :], reverse=True)
    assert ordinal_score("no grade", scale[truth], scale) == min(scores)


def test_on_a_scale_of_equal_steps_the_ordinal_score_is_that_of_ratings() -> None:
    for answer in (*STARS, "none"):
        for truth in STARS:
            assert ordinal_score(answer, truth, STARS) == MEASURES["rating_score"].score(answer, truth, STARS)


def test_a_truth_outside_the_scale_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="none of the options"):
        ordinal_error("P1", "P9", SCALE)


@pytest.mark.parametrize("task", Task)
def test_the_metric_of_each_kind_of_answer_is_a_measure(task: Task) -> None:
    assert task in MEASURES[METRIC[task]].tasks


def test_the_domains_metric_stands_beside_those_of_the_kind() -> None:
    pairs = [Pair("P1", "P2", SCALE), Pair("P4", "P4", SCALE)]
    assert metrics(measure_of("ordinal_score"), Task.LABEL, pairs) == pytest.approx({"accuracy": 0.5, "ordinal_score": 5 / 6, "ordinal_error": 0.5})
    assert metrics(measure_of("accuracy"), Task.LABEL, pairs) == {"accuracy": 0.5}


def test_chrf_is_sacrebleus_as_a_score() -> None:
    assert chrf("the cat sat", "the cat sat") == 1.0
    assert chrf("the cat sat", "the cats sat down") == pytest.approx(0.6, abs=0.15)
    assert 0 <= chrf("abc", "xyz") < 0.01 and chrf("", "text") == 0.0 and chrf(" ", "") == 1.0
    assert chrf("café", "cafe\u0301") == 1.0  # as their readers see them


def test_an_entry_point_is_imported_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
        def length(answer, truth, options): return min(len(answer), len(truth)) / max(len(answer), len(truth))
        def twice(answer, truth, options): return 2
        def broken(answer, truth, options): raise KeyError(answer)
        def alone(answer): return 1.0
        number = 3
    """
    (tmp_path / "measures_of_a_test.py").write_text("\n".join(line.strip() for line in code.splitlines()))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert measure_of("measures_of_a_test:length").score("ab", "abcd", ()) == 0.5
    assert measure_of("measures_of_a_test:length").tasks == frozenset(Task)
    for name, problem in (("twice", "returned 2.0"), ("broken", "failed .KeyError.")):
        with pytest.raises(MeasureFailed, match=problem) as raised:
            measure_of(f"measures_of_a_test:{name}").score("a user's text", "truth", ())
        assert "user's text" not in str(raised.value)
    for name, problem in (("alone", "three arguments"), ("number", "is no function"), ("missing", "has no missing")):
        with pytest.raises(ValueError, match=problem):
            measure_of(f"measures_of_a_test:{name}")
    sys.modules.pop("measures_of_a_test")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("bleu", "is unknown: use accuracy"),
        ("no_such_module:tone", "cannot be imported .ModuleNotFoundError."),
        ("os.path:", "write module:callable"),
        (":x", "write"),
    ],
)
def test_a_name_that_cannot_work_is_refused(name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        measure_of(name)
