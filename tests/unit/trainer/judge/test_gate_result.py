import json
from datetime import UTC, datetime

import pytest

from infra.registry.client import RegisteredVersion
from schemas.gate import GateResult
from schemas.promotion import CanaryPrompt
from trainer.judge.gate_result import GATE, gate_of, gate_tag, is_about

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
