"""The report of a run: result, figures and text."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from lab.chaos import picture
from lab.chaos.checker import CheckResult, check
from lab.chaos.faults import PerformedFault, ProcessLog
from lab.chaos.plan import Fault, FaultKind, FaultPlan
from lab.chaos.report import LISTED, AnsweredQuery, ChaosRun, Phase, answered_queries, compile_report, latencies_ms, lines, longest_standstills, per_second
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
        codecs=Counter({"zstd": 3, "gzip": 2}),
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
    assert report["codecs"] == {"gzip": 2, "zstd": 3} and "batches of the load by codec: gzip 2, zstd 3" in lines(report)
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


def test_acknowledged_queries_count_with_their_first_response() -> None:
    records = RecordBuilder()
    records.ask("q1", at_s=1.0)
    records.answer("q1", at_s=3.0)
    records.answer("q1", at_s=2.0)
    records.ask("q2", at_s=1.0)
    assert answered_queries(records.sent, records.seen) == [AnsweredQuery(0, 1.0, 2.0)]


def test_a_standstill_is_time_with_open_queries_and_no_answer() -> None:
    answers = [AnsweredQuery(0, 0.0, 1.0), AnsweredQuery(0, 9.0, 10.0), AnsweredQuery(0, 2.0, 30.0), AnsweredQuery(1, 5.0, 5.5)]
    assert [tuple(longest.values()) for longest in longest_standstills(answers)] == [(0, 10.0, 20.0), (1, 5.0, 0.5)]


def test_a_partition_without_queries_has_no_standstill() -> None:
    assert longest_standstills([AnsweredQuery(0, 0.0, 1.0), AnsweredQuery(0, 100.0, 101.5)]) == [{"partition": 0, "from_s": 100.0, "for_s": 1.5}]


def test_no_answers_have_no_latencies() -> None:
    assert latencies_ms([]) == {"p50": None, "p99": None, "max": None}
    assert latencies_ms([AnsweredQuery(0, 0.0, 1.0), AnsweredQuery(0, 0.0, 3.0)]) == {"p50": 1000.0, "p99": 3000.0, "max": 3000.0}


def test_moments_are_counted_by_second() -> None:
    assert per_second([1.2, 0.1, 1.9]) == {0: 1, 1: 2}


def cluster_run(records: RecordBuilder) -> ChaosRun:
    fault = Fault(FaultKind.BROKER_AWAY, "broker-2", 10.0, 20.0)
    of = run(records)
    of.plan, of.done = FaultPlan(1, 0.0, ()), [PerformedFault(fault, 10.0, 30.0, 7)]
    of.targets, of.phases = ("broker-1", "broker-2", "broker-3"), [Phase(FaultKind.BROKER_AWAY, ("broker-2",), 10.0, 30.0, 40.0, 42.0)]
    return of


def test_a_fault_of_a_cluster_has_the_figures_of_the_queries_asked_until_it_healed(tmp_path: Path) -> None:
    records = RecordBuilder()
    for query, asked_s, answered_s in (("before", 9.0, 41.0), ("q1", 10.0, 12.0), ("q2", 12.0, 20.0), ("after", 40.0, 41.0)):
        records.ask(query, at_s=asked_s)
        records.answer(query, at_s=answered_s)
    records.ask("open", at_s=39.0)
    of = cluster_run(records)
    report = compile_report(of, judged(of), BOUND_S)
    assert report["faults"]["by_process"] == {"broker-1": 0, "broker-2": 1, "broker-3": 0}
    (phase,) = report["phases"]
    assert (phase["asked"], phase["answered"], phase["longest_standstill_s"]) == (3, 2, 8.0)
    assert (phase["away_s"], phase["healed_after_s"], phase["all_answered_after_s"]) == (20.0, 30.0, 32.0)
    assert phase["latency_ms"] == {"p50": 2000.0, "p99": 8000.0, "max": 8000.0}
    assert any(line.startswith("broker-away (broker-2): healed after 30.0 s; 2 of 3 answered") for line in lines(report))
    picture.draw_picture(of, tmp_path / "cluster.png")
    assert (tmp_path / "cluster.png").read_bytes().startswith(b"\x89PNG")
