from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from bench.demo.mixed_versions import PromptAndAnswer
from bench.swap.figures import ObservedSwap, asked_during, dropped, percentiles, targets
from bench.swap.judge import differing_share, judge
from bench.swap.load import LoadAnswer
from infra.settings import Settings
from schemas.control_marks import ControlMarks
from schemas.ids import derive
from schemas.responses import ResponseStatus
from traffic.world import tweet_contexts, with_query_id
from workers.serving.engines.engine import SwapResult

ASKED = tweet_contexts(2, 0, "bench", 4)


def answer(text: str, version: str = "1", question: int = 0, due_s: float = 0.0, done_s: float = 1.0) -> LoadAnswer:
    return LoadAnswer(question, due_s, done_s, ResponseStatus.PERSONALIZED, version, "r", text)


REFERENCES = {version: {number: answer(f"{version}-{number}", version, number) for number in range(2)} for version in "12"}


class Chosen:
    """A scorer that chooses exactly these texts, one token per character."""

    marks = ControlMarks()

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def gaps(self, completion: PromptAndAnswer) -> Sequence[float]:
        (own,) = [text for text in self.texts if len(text) == len(completion.text)] or [""]
        return [0.0 if own[index : index + 1] == character else 1.0 for index, character in enumerate(completion.text)]


def judged(*answers: LoadAnswer, scorers: dict[str, Any] | None = None) -> dict[str, Any]:
    return judge(answers, REFERENCES, ASKED, Settings(), lambda: scorers or {})


def whole(body: str) -> str:
    return f"<think>r</think><personalized>{body}</personalized>"


def test_an_answer_equal_to_its_version_s_reference_is_right() -> None:
    counts = judged(answer("1-0"), answer("2-1", "2", 1), replace(answer("1-0"), status=ResponseStatus.NO_HISTORY))
    assert counts == {"compared": 2, "equal": 2, "tied": 0, "mixed": 0, "wrong": 0, "unstamped": 0}


@pytest.mark.parametrize(("text", "verdict"), [("abcd", "tied"), ("abyz", "mixed"), ("zbca", "wrong")])
def test_a_different_answer_is_traced_token_by_token(text: str, verdict: str) -> None:
    scorers = {"1": Chosen(whole("abcd")), "2": Chosen(whole("wxyz"))}
    counts = judged(answer(text), answer(text), scorers=scorers)
    assert {name: counts[name] for name in ("equal", "tied", "mixed", "wrong")} == {"equal": 0, "tied": 0, "mixed": 0, "wrong": 0} | {verdict: 2}


def test_an_answer_without_a_version_counts_as_unstamped() -> None:
    assert judged(replace(answer("x"), version=None))["unstamped"] == 1


def test_the_share_of_questions_that_versions_answer_differently_is_reported() -> None:
    same = {number: replace(reference, version="2") for number, reference in REFERENCES["1"].items()}
    assert (differing_share(REFERENCES), differing_share({"1": REFERENCES["1"], "2": same})) == (1.0, 0.0)


def swap(alias_s: float, served_s: float, lost: int = 0) -> ObservedSwap:
    return ObservedSwap(
        "1", "2", alias_s, alias_s + 0.1, served_s, served_s + 0.2, SwapResult(in_flight=0, dropped=lost, waited_ms=0.0, load_ms=3.0, check_ms=5.0)
    )


def test_questions_of_a_swap_are_asked_from_the_alias_change_until_it_settles() -> None:
    times = [(9, 11), (10, 11), (13, 19), (14, 15), (15, 16)]
    counted = asked_during([answer("", due_s=due, done_s=done) for due, done in times], [swap(10, 13)], settle_s=1.0)
    assert [(load_answer.due_s, load_answer.done_s) for load_answer in counted] == times[1:4]


def test_dropped_is_the_larger_of_unanswered_questions_and_the_worker_s_figure() -> None:
    unanswered = LoadAnswer(0, 0.0, 1.0)
    fallen_back = replace(answer("x"), status=ResponseStatus.REFLECTION_FAILED)
    assert dropped([answer("x"), unanswered, fallen_back], [swap(0, 1, lost=1)]) == 2
    assert dropped([answer("x")], [swap(0, 1, lost=3), swap(1, 2)]) == 3


def test_a_target_without_a_measurement_is_missed() -> None:
    good = {"mixed": 0, "wrong": 0, "unstamped": 0}
    times = percentiles([100.0, 200.0])
    figures: dict[str, Any] = {"judged": good, "steady_ms": times, "during_ms": times, "event_to_answer_ms": times, "swaps": [{}, {}], "dropped": 0}
    assert all(target.met for target in targets(figures, 2))
    missed = [target.name for target in targets(figures | {"during_ms": None, "event_to_answer_ms": None}, 3) if not target.met]
    assert missed == [
        "swaps", "p99 of questions asked during a swap, times the steady p99", "model event to the first answer by the new version, worst, s"
    ]  # fmt: skip


def test_a_question_asked_again_is_another_query_with_the_same_prompt() -> None:
    repeated = with_query_id(ASKED[0], derive("query", 7))
    assert repeated.draft.query.query_id != ASKED[0].draft.query.query_id
    assert (repeated.draft.query.text, repeated.items) == (ASKED[0].draft.query.text, ASKED[0].items)
    assert len(ASKED[0].items) == 4
