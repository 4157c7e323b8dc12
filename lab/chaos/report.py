"""What a run found, as JSON and as lines for a person. Ids and figures only, never texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.chaos.checker import CheckResult
from lab.chaos.faults import PerformedFault, ProcessLog
from lab.chaos.plan import KILLS_AND_PAUSES, PROCESSES, WARM_UP_S, FaultPlan
from lab.chaos.records import SeenRecord, SendOutcome, SentRecord
from lab.chaos.timeline import AnsweredQuery, answered, latencies_ms, per_second, standstills
from schemas.topics import QUERIES, RESPONSES

#: Anomalies of one kind that are listed; all are counted, and all can be found again from the two files.
LISTED = 20


@dataclass(frozen=True)
class ChaosRun:
    """All that a run has to show."""

    plan: FaultPlan
    load_s: float  # as long as it really was
    sent: Sequence[SentRecord]
    seen: Sequence[SeenRecord]
    done: Sequence[PerformedFault]
    diary: ProcessLog
    healed_s: float | None  # the moment the last fault had ended and all processes served; every wait for answers counts from there
    answered_all_s: float | None  # when the last acknowledged query was answered; None: some never were
    read_at_end: int  # records that only the fresh reader at the end had: the one that was there all the time was behind
    log_partitions: int  # directories of the broker's log that were read
    failure: str | None = None  # what ended the run early
    parts: dict[str, str] = field(default_factory=dict)  # what ran


def compile_report(evidence: ChaosRun, verdict: CheckResult, bound_s: float) -> dict[str, Any]:
    answers = answered(evidence.sent, evidence.seen)
    last_fault_s = max((one.ended_s for one in evidence.done), default=0.0)
    return {
        "valid": verdict.is_valid and evidence.failure is None,
        "failure": evidence.failure,
        "seed": evidence.plan.seed,
        "load_s": round(evidence.load_s, 1),
        "anomalies": verdict.counts,
        "duplicate_causes": verdict.causes,
        "observed": verdict.observed,
        "statuses": dict(sorted(Counter(one.status for one in evidence.seen if one.topic == RESPONSES.name and one.status).items())),
        "faults": _faults(evidence),
        "healing": {
            "counted_from": "the moment the last fault had ended and every process served",
            "last_fault_ended_s": round(last_fault_s, 2),
            "healed_s": evidence.healed_s,
            "processes_back_after_s": None if evidence.healed_s is None else round(evidence.healed_s - last_fault_s, 2),
            "all_answered_s": evidence.answered_all_s,
            "bound_s": bound_s,
        },
        "latency_ms": {"all": latencies_ms(answers), "before_faults": latencies_ms(one for one in answers if one.seen_s < WARM_UP_S)},
        "standstill": [asdict(one) for one in standstills(answers)],
        "processes": {"recoveries_s": evidence.diary.recoveries_s(), "ended_by_themselves": evidence.diary.unasked_ends(evidence.done)},
        "readers": {"only_read_at_the_end": evidence.read_at_end, "log_partitions": evidence.log_partitions},
        "parts": evidence.parts,
        "listed": _listed(verdict),
        "per_second": _per_second(evidence, answers),
    }


def _faults(evidence: ChaosRun) -> dict[str, Any]:
    done = evidence.done
    hits = [one for one in done if one.fault.kind in KILLS_AND_PAUSES]
    return {
        "kills_and_pauses": len(hits),
        "by_process": {name: sum(one.fault.target == name for one in hits) for name in PROCESSES},
        "by_kind": dict(sorted(Counter(one.fault.kind.value for one in done).items())),
        "done": [asdict(one.fault) | {"began_s": one.began_s, "ended_s": one.ended_s, "pid": one.pid} for one in done],
    }


def _listed(verdict: CheckResult) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for anomaly in verdict.anomalies:
        ones = found.setdefault(anomaly.kind.value, [])
        if len(ones) < LISTED:
            ones.append({"topic": anomaly.topic, "id": anomaly.id, "where": anomaly.where})
    return found


def _per_second(evidence: ChaosRun, answers: Sequence[AnsweredQuery]) -> dict[str, dict[int, int]]:
    asked = (one.sent_s for one in evidence.sent if one.topic == QUERIES.name and one.outcome is SendOutcome.OK)
    return {"asked": per_second(asked), "answered": per_second(one.seen_s for one in answers)}


def lines(report: dict[str, Any]) -> list[str]:
    """For a person: the verdict first."""
    healing, faults, observed = report["healing"], report["faults"], report["observed"]
    said = [
        ("valid: no anomaly" if report["valid"] else "NOT VALID") + (f"; ended early: {report['failure']}" if report["failure"] else ""),
        "  ".join(f"{kind} {count}" for kind, count in report["anomalies"].items()),
        f"{observed['queries_ok']} queries acknowledged in {report['load_s']:g} s, {observed['queries_info']} unknown, {observed['queries_fail']} not sent",
        f"{faults['kills_and_pauses']} kills and pauses, all faults: {_words(faults['by_kind'])}",
        f"duplicated responses by cause: {_words(report['duplicate_causes'])}; contexts repeated: {observed['contexts_repeated']}",
        f"last fault ended at {healing['last_fault_ended_s']} s, all processes served {healing['processes_back_after_s']} s later, "
        f"all answered at {healing['all_answered_s']} s; unseen counts from {healing['healed_s']} s and allows {healing['bound_s']:g} s",
        f"latency ms: {_words(report['latency_ms']['all'])}; before the first fault: {_words(report['latency_ms']['before_faults'])}",
        "longest standstill by partition: " + ", ".join(f"{one['partition']}: {one['for_s']} s" for one in report["standstill"]),
        f"slowest return of a process, s: {_words({name: max(ones) for name, ones in report['processes']['recoveries_s'].items()})}",
        f"processes that ended by themselves: {_words(report['processes']['ended_by_themselves']) or 'none'}",
    ]
    return said + [f"{kind}: {' '.join(one['id'] or one['where'] for one in ones[:3])}" for kind, ones in report["listed"].items()]


def _words(figures: dict[str, Any]) -> str:
    return ", ".join(f"{name} {figure}" for name, figure in figures.items())
