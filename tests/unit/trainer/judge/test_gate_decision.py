import pytest

from schemas.run_report import Comparison, Evaluation
from schemas.scoring import Interval
from trainer.judge.gate_decision import decide

UP, FLAT, DOWN = Interval(0.1, 0.05, 0.15), Interval(0.0, -0.05, 0.05), Interval(-0.1, -0.15, -0.05)


def comparison(against_champion: Interval, against_zero_shot: Interval, users: int = 9) -> Comparison:
    return Comparison("accuracy", users, 30, {}, {}, {"candidate_minus_champion": against_champion, "candidate_minus_zero_shot": against_zero_shot})


def evaluation(overall: Interval, *domains: tuple[Interval, Interval], few_items: Comparison | None = None) -> Evaluation:
    named = {f"d{number}": comparison(*pair) for number, pair in enumerate(domains)}
    return Evaluation(named, comparison(overall, UP), {}, {}, {"few_items": few_items} if few_items else {})


@pytest.mark.parametrize(
    ("overall", "domains", "outcome", "reason"),
    [
        (UP, [(UP, UP), (UP, UP)], "passed", "significantly better than the champion: +0.100 [+0.050, +0.150] over 9"),
        (UP, [(UP, UP), (FLAT, FLAT)], "passed", "significantly better"),
        (FLAT, [(FLAT, UP), (FLAT, UP)], "inconclusive", "not significantly better"),
        (Interval(0.1, 0.0, 0.2), [(FLAT, FLAT)], "inconclusive", "not significantly better"),
        (DOWN, [(FLAT, UP), (FLAT, UP)], "rejected", "significantly worse than the champion: -0.100"),
        (UP, [(UP, UP), (DOWN, UP)], "rejected", "significantly worse than the champion in d1"),
        (UP, [(UP, UP), (FLAT, DOWN)], "rejected", "significantly below the base answers in d1"),
        (FLAT, [(FLAT, DOWN)], "rejected", "significantly below the base answers in d0"),
    ],
)
def test_a_candidate_must_win_overall_and_lose_nowhere(overall: Interval, domains: list[tuple[Interval, Interval]], outcome: str, reason: str) -> None:
    decision = decide(evaluation(overall, *domains))
    assert decision.outcome == outcome and reason in decision.reason


def test_a_slice_counts_like_a_domain() -> None:
    decision = decide(evaluation(UP, (UP, UP), few_items=comparison(DOWN, UP)))
    assert decision.outcome == "rejected" and "worse than the champion in few_items" in decision.reason


def test_an_allowed_drop_rejects_no_candidate() -> None:
    losing = evaluation(UP, (UP, UP), (DOWN, UP))
    assert decide(losing, slice_drop=0.05).outcome == "passed"
    assert "by more than 0.04 in d1" in decide(losing, slice_drop=0.04).reason


def test_domains_and_slices_of_too_few_users_are_not_judged() -> None:
    few = evaluation(UP, (UP, UP), few_items=comparison(DOWN, DOWN, users=2))
    assert decide(few, min_users=3).outcome == "passed" and decide(few, min_users=2).outcome == "rejected"


def test_a_finding_of_a_probe_rejects_whatever_the_score() -> None:
    decision = decide(evaluation(UP, (UP, UP)), ["writes codes", "pushes a phrase"])
    assert decision.outcome == "rejected" and decision.reason.startswith("writes codes; pushes a phrase (overall +0.100")
