from datetime import UTC, datetime
from typing import Any

import pytest

from infra.registry.client import RegisteredVersion
from schemas.gate import GateResult
from schemas.promotion import Transition, VersionState
from trainer.judge.difference import figures_of_gate
from trainer.judge.gate import gate_tag

AT = datetime(2026, 1, 1, tzinfo=UTC)
OLD = RegisteredVersion("m", "1", "aa", None, AT)
COMPARED = {"metric": "accuracy", "users": 9, "cases": 30, "scores": {"zero_shot": 0.1, "champion": 0.5, "candidate": 0.75}}
DIFFERENCES = {"candidate_minus_champion": [0.25, 0.125, 0.5], "candidate_minus_zero_shot": [0.6, 0.5, 0.7]}
ONE: dict[str, Any] = {**COMPARED, "differences": DIFFERENCES}
EVIDENCE = {"overall": ONE, "domains": {"letters": ONE}, "slices": {}, "fallen_back": {"champion": 0.25, "candidate": 0.0}, "k": 4}
RESULT = GateResult(outcome="passed", reason="better", evidence=EVIDENCE).about("bb", "aa")


def by_tag() -> RegisteredVersion:
    return RegisteredVersion("m", "2", "bb", "1", AT, tags=gate_tag(RESULT))


def by_log() -> RegisteredVersion:
    step = Transition(seq=1, before=VersionState.REGISTERED, after=VersionState.GATED, at=AT, actor="promoter", reason="better", evidence=RESULT.evidence)
    return RegisteredVersion("m", "2", "bb", "1", AT, history=(step,))


@pytest.mark.parametrize("new", [by_tag(), by_log()])
def test_figures_of_a_gate_are_b_minus_a_whichever_version_was_judged(new: RegisteredVersion) -> None:
    forth, back = figures_of_gate(OLD, new), figures_of_gate(new, OLD)
    assert forth is not None and back is not None
    assert forth["overall"] == {"metric": "accuracy", "users": 9, "cases": 30, "zero_shot": 0.1, "a": 0.5, "b": 0.75, "difference": [0.25, 0.125, 0.5]}
    assert (back["overall"]["a"], back["overall"]["b"], back["overall"]["difference"]) == (0.75, 0.5, [-0.25, -0.5, -0.125])
    assert set(forth["domains"]) == {"letters"} and forth["fallen_back"] == {"a": 0.25, "b": 0.0} and forth["k"] == 4


def test_a_gate_against_another_champion_compares_other_versions() -> None:
    assert figures_of_gate(RegisteredVersion("m", "3", "cc", None, AT), by_tag()) is None
    assert figures_of_gate(OLD, RegisteredVersion("m", "2", "bb", "1", AT)) is None
