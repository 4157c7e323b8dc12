from __future__ import annotations

from dataclasses import replace

import pytest

from infra.errors import CannotContinue
from schemas.domain_entries import DomainEntry
from schemas.domains import BUILT_IN_DOMAINS, Domains
from schemas.rewriting import Rewrite
from schemas.scoring import style_f1
from tests.support.outcomes import make_case
from trainer.data.query_cases import QueryCase
from trainer.learn.rewards import NotFinite, Reward, RewardGuard, answer_of, finite, reward_of

BONUS = 0.1
DRAFT, TRUTH, SHOWN = "The harbour bakery wins a prize", "harbour bakery wins!! prize!!", "walkers keep their bridge!!"


def text_case(*, truth: str = TRUTH, draft: str = DRAFT, shown: str = SHOWN, text: str = "a bakery won") -> QueryCase:
    case = make_case(options=(), base=draft, truth=truth)
    items = tuple(item.model_copy(update={"response": shown}) for item in case.items)
    return replace(case, items=items, query=case.query.model_copy(update={"text": text}))


def rewarded(answer: str, case: QueryCase) -> Reward:
    return reward_of(Rewrite("they write low", answer).to_text(), True, case, BUILT_IN_DOMAINS)


@pytest.mark.parametrize("answer", [TRUTH, "harbour bakery wins prize!!", "The harbour bakery wins!!"])
def test_a_rewrite_has_its_score_and_the_bonus(answer: str) -> None:
    reward = rewarded(answer, text_case())
    assert (reward.guard, reward.usable) == (None, True)
    assert reward.total(BONUS) == pytest.approx(style_f1(answer, TRUTH) + BONUS)


@pytest.mark.parametrize("answer", [DRAFT, f'"{DRAFT}"', f"\u200b{DRAFT}\ufeff"])
def test_a_repeated_draft_has_its_score_and_no_bonus(answer: str) -> None:
    reward = rewarded(answer, text_case())
    assert reward.guard is RewardGuard.DRAFT_REPEATED
    assert reward.total(BONUS) == reward.score == style_f1(answer, TRUTH)
    assert reward.score > 0


@pytest.mark.parametrize("answer", [SHOWN, SHOWN.upper(), f"“{SHOWN}”", f"\u202a{SHOWN}"])
def test_a_copied_item_has_no_score(answer: str) -> None:
    reward = rewarded(answer, text_case())
    assert reward.guard is RewardGuard.ITEM_COPIED
    assert reward.total(BONUS) == BONUS


def test_an_item_about_the_same_text_may_be_repeated() -> None:
    case = text_case(text="item 1")
    assert case.items[1].content == case.query.text
    assert rewarded(SHOWN, case).guard is RewardGuard.ITEM_COPIED  # of the other items
    assert rewarded(SHOWN, replace(case, items=case.items[1:2])).guard is None


@pytest.mark.parametrize(
    "answer",
    [
        "Here is your new headline: harbour bakery wins!!",
        "harbour bakery wins!! just as you like it",
        "harbour bakery wins!! just as\u00a0you li\u200bke it",
        "Great question! harbour bakery wins",
        "harbour bakery wins, written especially for you",
        "harbour bakery wins!! in your usual style",
        "Sure, here you are: harbour bakery wins!!",
        "harbour bakery wins!! I hope this helps",
    ],
)
def test_flattery_has_no_score(answer: str) -> None:
    reward = rewarded(answer, text_case())
    assert reward.guard is RewardGuard.FLATTERY
    assert reward.score > 0
    assert reward.total(BONUS) == BONUS


@pytest.mark.parametrize(
    "case",
    [text_case(truth="great question: who wins"), text_case(shown="Great question! who walks"), text_case(text="what a great question we had today")],
)
def test_words_of_the_user_or_the_query_are_no_flattery(case: QueryCase) -> None:
    assert rewarded("great question!! bakery wins", case).guard is None


@pytest.mark.parametrize("answer", ["Here's why the bakery wins", "The question of your bakery", "You are the winner", "here are the bakers"])
def test_plain_words_are_no_flattery(answer: str) -> None:
    assert rewarded(answer, text_case()).guard is None


def test_the_score_of_a_text_that_is_too_long_shrinks_with_the_excess() -> None:
    longest = max(map(len, (DRAFT, TRUTH, SHOWN)))
    within, beyond = (rewarded(TRUTH + "!" * (length - len(TRUTH)), text_case()) for length in (2 * longest, 4 * longest))
    assert within.guard is None
    assert beyond.guard is RewardGuard.TOO_LONG
    assert beyond.total(BONUS) == pytest.approx(beyond.score / 2 + BONUS)


@pytest.mark.parametrize(
    "case",
    [
        text_case(truth=DRAFT),
        text_case(truth=SHOWN),
        text_case(truth="Here is your headline: bakery"),
        text_case(truth="word " * 100),
    ],
)
def test_the_users_own_answer_is_never_guarded(case: QueryCase) -> None:
    reward = rewarded(case.truth, case)
    assert (reward.score, reward.guard, reward.total(BONUS)) == (1.0, None, 1.0 + BONUS)


def test_options_are_never_guarded() -> None:
    kept = rewarded("a", make_case(options=("a", "b"), base="a", truth="b"))
    copied = rewarded("b", make_case(options=("a", "b"), base="a", truth="b"))
    assert [(reward.score, reward.guard, reward.total(BONUS)) for reward in (kept, copied)] == [(0.0, None, BONUS), (1.0, None, 1.0 + BONUS)]


@pytest.mark.parametrize("completion", [f"<personalized>{TRUTH}</personalized>", f"<think>a</think><think>b</think><personalized>{TRUTH}</personalized>"])
def test_a_body_that_serving_would_use_without_the_format_has_no_reward(completion: str) -> None:
    case = text_case()
    assert answer_of(completion, case) == TRUTH
    assert reward_of(completion, True, case, BUILT_IN_DOMAINS) == Reward(0.0, usable=False)


def test_completions_that_serving_would_discard_have_no_reward() -> None:
    cut_off = reward_of(Rewrite("x", TRUTH).to_text(), False, text_case(), BUILT_IN_DOMAINS)
    unparsable = reward_of(TRUTH, True, text_case(), BUILT_IN_DOMAINS)
    assert [reward.total(BONUS) for reward in (cut_off, unparsable)] == [0.0, 0.0]


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_not_finite_is_an_error_with_its_case(reward: float) -> None:
    case = text_case()
    with pytest.raises(NotFinite, match=f"outcome {case.case_id} .text of letters. is .*, not a number"):
        finite(reward, case)
    assert finite(0.5, case) == 0.5


SCALE = ("P1", "P2", "P3", "P4")


@pytest.mark.parametrize(("answer", "score"), [("P1", 1.0), ("P2", 2 / 3), ("P4", 0.0), ("urgent", 0.0)])
def test_the_reward_on_a_scale_falls_with_the_steps(answer: str, score: float) -> None:
    case = make_case(options=SCALE, base="P4", truth="P1", domain="priority")
    domains = Domains({"priority": DomainEntry(options=SCALE, ordered=True, metric="accuracy", reward="ordinal_score")})
    reward = reward_of(Rewrite("they hurry", answer).to_text(), True, case, domains)
    assert reward.score == pytest.approx(score) and reward.usable is (answer in SCALE)
    assert rewarded(answer, case).score == float(answer == "P1")  # without the entry


def test_a_measure_that_fails_stops_the_run() -> None:
    domains = Domains({"letters": DomainEntry.model_construct(reward="tests.support.own_measures:fails")})
    with pytest.raises(CannotContinue, match=r"no reward for outcome .* of letters: the measure tests.support.own_measures:fails failed .RuntimeError.$"):
        reward_of(Rewrite("they like b", "b").to_text(), True, make_case(), domains)
