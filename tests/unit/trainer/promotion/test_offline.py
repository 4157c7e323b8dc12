import pytest

from schemas.scoring import Interval
from trainer.evaluate import Comparison, Evaluation
from trainer.promotion.offline import decide

UP, FLAT, DOWN = Interval(0.1, 0.05, 0.15), Interval(0.0, -0.05, 0.05), Interval(-0.1, -0.15, -0.05)


def comparison(against_champion: Interval, against_zero_shot: Interval) -> Comparison:
    return Comparison("accuracy", 9, 30, {}, {}, {"candidate_minus_champion": against_champion, "candidate_minus_zero_shot": against_zero_shot})


@pytest.mark.parametrize(
    ("overall", "domains", "promote", "reason"),
    [
        (UP, [(UP, UP), (UP, UP)], True, "significantly better than the champion: +0.100 [+0.050, +0.150] over 9"),
        (UP, [(UP, UP), (FLAT, FLAT)], True, "significantly better"),
        (FLAT, [(FLAT, UP), (FLAT, UP)], False, "not significantly better"),
        (DOWN, [(FLAT, UP), (FLAT, UP)], False, "not significantly better"),
        (UP, [(UP, UP), (DOWN, UP)], False, "significantly worse than the champion in d1"),
        (UP, [(UP, UP), (FLAT, DOWN)], False, "significantly below the base answers in d1"),
        (Interval(0.1, 0.0, 0.2), [(FLAT, FLAT)], False, "not significantly better"),
    ],
)
def test_a_candidate_must_win_overall_and_lose_nowhere(overall: Interval, domains: list[tuple[Interval, Interval]], promote: bool, reason: str) -> None:
    named = {f"d{number}": comparison(*pair) for number, pair in enumerate(domains)}
    decision = decide(Evaluation(named, comparison(overall, UP), {}, {}))
    assert decision.promote is promote and reason in decision.reason
