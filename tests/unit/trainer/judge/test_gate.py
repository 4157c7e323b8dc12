import json
from datetime import UTC, datetime

import pytest

from infra.registry.client import RegisteredVersion
from schemas.gate import GateResult
from schemas.promotion import CanaryPrompt
from schemas.run_report import Comparison, Evaluation
from schemas.scoring import Interval
from trainer.judge.gate import GATE, decide, gate_of, gate_tag, is_about

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


RESULT = GateResult(outcome="passed", reason="better", evidence={"overall": {"users": 9}}, canary_prompts=(CanaryPrompt(prompt="hello", token_ids=(1, 2)),))
STORED = RESULT.model_dump(mode="json")
CHAMPION = RegisteredVersion("m", "1", "aa", None, datetime(2026, 1, 1, tzinfo=UTC))


def version(digest: str = "bb", **tags: str) -> RegisteredVersion:
    return RegisteredVersion("m", "2", digest, "1", CHAMPION.created_at, tags=tags)


def test_a_result_is_the_same_after_json() -> None:
    assert GateResult.model_validate(json.loads(json.dumps(STORED))) == RESULT


@pytest.mark.parametrize("document", [None, [], {}, STORED | {"outcome": "maybe"}, STORED | {"canary_prompts": [{"prompt": 1}]}])
def test_other_json_is_no_result(document: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # pydantic's own error is one
        GateResult.model_validate(document)


def test_a_stored_result_holds_only_for_its_two_checkpoints() -> None:
    result = RESULT.about("bb", "aa")
    assert gate_of(version(**gate_tag(result)), CHAMPION) == result and result.evidence["overall"] == {"users": 9}
    assert gate_of(version("cc", **gate_tag(result)), CHAMPION) is None
    assert gate_of(version(**gate_tag(RESULT.about("bb", "dd"))), CHAMPION) is None
    assert gate_of(version(**gate_tag(RESULT)), CHAMPION) is None
    assert gate_of(version(), CHAMPION) is None


@pytest.mark.parametrize("text", ["", "not JSON", "[]", '{"outcome": "passed", "evidence": {"candidate": "bb", "champion": "aa"}}'])
def test_a_tag_that_is_no_result_is_ignored(text: str) -> None:
    assert gate_of(version(**{GATE: text}), CHAMPION) is None


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param('"reason": "\\ud800", "evidence": {}', id="half a character"),
        pytest.param('"reason": "x", "evidence": {"x": "\\ud800"}', id="half a character among the figures"),
        pytest.param('"reason": "x", "evidence": {"x": ' + "[" * 400 + "]" * 400 + "}", id="too deep to be written"),
        pytest.param('"reason": "x", "evidence": {"x": ' + "[" * 220 + "]" * 220 + "}", id="too deep to be read again"),
        pytest.param('"reason": "x", "evidence": {"x": "' + "x" * 99_800 + '"}', id="too long"),
    ],
)
def test_a_result_that_fits_into_no_transition_is_ignored(odd: str) -> None:
    ours = '"evidence": {"candidate": "bb", "champion": "aa", '
    text = '{"outcome": "passed", "canary_prompts": [], ' + odd.replace('"evidence": {', ours).replace(", }", "}") + "}"
    assert is_about(json.loads(text)["evidence"], version(), CHAMPION)
    assert gate_of(version(**{GATE: text}), CHAMPION) is None
