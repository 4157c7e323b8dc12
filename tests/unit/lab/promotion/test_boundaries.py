"""Promoters killed by SIGKILL over a real registry at a few boundaries; `retouch lab promotion` kills at every one."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.settings import load
from lab.promotion.boundaries import cases, run_boundaries
from lab.promotion.scenarios import SCENARIOS

ROLLBACK = next(scenario for scenario in SCENARIOS if scenario.name == "rollback")
GOOD = next(scenario for scenario in SCENARIOS if scenario.name == "good")


def test_few_kills_are_spread_over_all_boundaries_and_many_add_second_kills() -> None:
    boundaries = {"good": 4, "rollback": 6}
    few = list(cases((GOOD, ROLLBACK), boundaries, 5))
    assert [(case.scenario.name, case.kills) for case in few] == [("good", (0,)), ("good", (2,)), ("rollback", (0,)), ("rollback", (2,)), ("rollback", (4,))]
    many = list(cases((GOOD, ROLLBACK), boundaries, 99))
    assert [case.kills for case in many[:10]] == [(0,), (1,), (2,), (3,), (0,), (1,), (2,), (3,), (4,), (5,)]
    assert len(many[10].kills) == 2 and len({(case.scenario.name, case.kills) for case in many}) == len(many)


@pytest.mark.long("twelve promoters are killed and started again")
@pytest.mark.timeout(600)
def test_a_killed_promoter_ends_like_one_without_kills(tmp_path: Path) -> None:
    report = run_boundaries(load(), tmp_path, 12, (GOOD, ROLLBACK))
    assert report["anomalies"] == [] and report["kills"] == {"promoter": 12}
    assert {name: scenario["ends"] for name, scenario in report["scenarios"].items()} == {"good": "champion", "rollback": "rejected"}
