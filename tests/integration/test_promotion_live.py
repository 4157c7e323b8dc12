"""Promotion on a running system with three kills; `retouch lab promotion --live` kills each process at every transition."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.settings import load
from lab.promotion.live.experiment import run_live
from lab.promotion.live.scenarios import PROMOTER, REGISTRY, UNSOUND, WORKER, Kill, LiveCase


@pytest.mark.integration
@pytest.mark.long("starts and kills the whole promotion system")
@pytest.mark.timeout(900)  # the start, the case and the remaining answers each have a time limit
def test_a_refused_version_is_rejected_after_promoter_worker_and_registry_are_killed(tmp_path: Path) -> None:
    kills = (Kill(REGISTRY, 0.0), Kill(PROMOTER, 0.2), Kill(WORKER, 0.4))
    report = run_live(load(), tmp_path / "live", [LiveCase(UNSOUND, kills)], seed=1)
    assert report["anomalies"] == [] and report["kills"] == {PROMOTER: 1, WORKER: 1, REGISTRY: 1}
    answers = report["answers"]
    assert answers["asked"] == answers["shown"] == answers["by_champion"] > 0
