"""The report of a run: result, figures and text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lab.chaos import picture
from lab.chaos.checker import CheckResult, check
from lab.chaos.faults import PerformedFault, ProcessLog
from lab.chaos.plan import Fault, FaultKind, FaultPlan
from lab.chaos.report import LISTED, ChaosRun, compile_report, lines
from tests.support.chaos_records import RecordBuilder, clean

BOUND_S = 30.0
KILL, PAUSE = Fault(FaultKind.KILL, "base", 1.0), Fault(FaultKind.PAUSE, "streams", 2.0, 3.0)


def run(records: RecordBuilder, failure: str | None = None) -> ChaosRun:
    return ChaosRun(
        plan=FaultPlan(1, 60.0, (KILL, PAUSE)),
        load_s=60.0,
        sent=records.sent,
        seen=records.seen,
        done=[PerformedFault(KILL, 1.0, 1.0, 7), PerformedFault(PAUSE, 2.0, 5.0, 8)],
        process_log=ProcessLog(),
        healed_s=6.0,
        answered_all_s=7.0,
        read_at_end=0,
        log_partitions=4,
        failure=failure,
    )


def reported(records: RecordBuilder, failure: str | None = None) -> dict[str, Any]:
    of = run(records, failure)
    return compile_report(of, judged(of), BOUND_S)


def judged(of: ChaosRun) -> CheckResult:
    return check(of.sent, of.seen, {}, healed_s=of.healed_s, bound_s=BOUND_S)


def test_a_run_without_anomalies_is_valid_and_its_faults_are_counted() -> None:
    report = reported(clean())
    assert report["valid"]
    assert report["faults"]["kills_and_pauses"] == 2
    assert report["faults"]["by_process"]["base"] == report["faults"]["by_process"]["streams"] == 1
    assert report["healing"]["processes_back_after_s"] == 1.0
    assert json.loads(json.dumps(report))["anomalies"] == report["anomalies"]


def test_a_run_that_ended_early_is_not_valid() -> None:
    report = reported(clean(), failure="base ended more than 5 times in 60 s")
    assert not report["valid"]
    assert lines(report)[0] == "NOT VALID; ended early: base ended more than 5 times in 60 s"


def test_anomalies_are_all_counted_and_some_are_named() -> None:
    records = clean()
    for number in range(LISTED + 5):
        records.ask(f"lost {number}")
    report = reported(records)
    assert report["anomalies"]["lost-write"] == LISTED + 5
    assert len(report["listed"]["lost-write"]) == LISTED
    assert any(line.startswith("lost-write: lost 0 lost 1") for line in lines(report))


def test_an_empty_run_has_a_picture(tmp_path: Path) -> None:
    for name, records in (("all.png", clean()), ("none.png", RecordBuilder())):
        picture.draw_picture(run(records), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
