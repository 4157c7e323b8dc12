"""The report of a run, as JSON and as text. Contains ids and figures, never users' texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.chaos.checker import CheckResult
from lab.chaos.faults import PerformedFault, ProcessLog
from lab.chaos.plan import CLUSTER_FAULTS, KILLS_AND_PAUSES, PROCESSES, FaultKind, FaultPlan
from lab.chaos.records import SeenRecord, SendOutcome, SentRecord
from schemas.drafts import DraftStatus, FailureCause
from schemas.topics import DRAFTS, QUERIES, RESPONSES
from traffic.observer import ShownAnswer, percentile, standstills


@dataclass(frozen=True)
class AnsweredQuery:
    """An acknowledged query, and the time at which its first response became visible."""

    partition: int
    sent_s: float
    seen_s: float

    @property
    def latency_ms(self) -> float:
        return (self.seen_s - self.sent_s) * 1000


def answered_queries(sent: Sequence[SentRecord], seen: Iterable[SeenRecord]) -> list[AnsweredQuery]:
    """Sorted by the time of the response."""
    first: dict[str, float] = {}
    for record in seen:
        if record.topic == RESPONSES.name and record.query_id:
            first[record.query_id] = min(record.seen_s, first.get(record.query_id, record.seen_s))
    queries = [
        AnsweredQuery(query.partition, query.sent_s, first[query.id])
        for query in sent
        if query.topic == QUERIES.name and query.outcome is SendOutcome.OK and query.partition is not None and query.id in first
    ]
    return sorted(queries, key=lambda answer: answer.seen_s)


def per_second(moments_s: Iterable[float]) -> dict[int, int]:
    return dict(sorted(Counter(int(moment) for moment in moments_s).items()))


def latencies_ms(answers: Iterable[AnsweredQuery]) -> dict[str, float | None]:
    values = [answer.latency_ms for answer in answers]
    return {name: None if (value := percentile(values, share)) is None else round(value, 1) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}


def longest_standstills(answers: Iterable[AnsweredQuery]) -> list[dict[str, float]]:
    """The longest one of each partition, as in the report."""
    by_partition = standstills(ShownAnswer(answer.partition, answer.sent_s, answer.seen_s) for answer in answers)
    longest = [max(own, key=lambda standstill: standstill.seconds) for own in by_partition.values()]
    return [{"partition": own.partition, "from_s": round(own.from_s, 2), "for_s": round(own.seconds, 2)} for own in longest]


#: Maximum number of listed anomalies per kind. All are counted, and the two files of records contain all.
LISTED = 20


@dataclass(frozen=True)
class Phase:
    """One fault of a cluster and its healing, in seconds since the start of the load."""

    kind: FaultKind
    nodes: tuple[str, ...]
    began_s: float
    ended_s: float  # every node runs again
    healed_s: float  # every replica is in sync, and every process serves
    answered_s: float | None  # every query that was acknowledged when it was healed is answered


@dataclass
class ChaosRun:
    """Everything recorded in a run. The experiment fills it in."""

    plan: FaultPlan
    load_s: float = 0.0  # the real duration of the load
    sent: Sequence[SentRecord] = ()
    seen: Sequence[SeenRecord] = ()
    done: Sequence[PerformedFault] = ()
    process_log: ProcessLog = field(default_factory=ProcessLog)
    healed_s: float | None = None  # when the last fault had ended and all processes served; the bound for answers counts from here
    answered_all_s: float | None = None  # when the last acknowledged query was answered; None if some were not
    read_at_end: int = 0  # records that only the reader at the end got
    codecs: Counter[str] = field(default_factory=Counter)  # batches of the load by codec, by the broker's log
    log_partitions: int = 0  # number of partition directories that were read
    endpoint_calls: int = 0  # calls that the base model answered
    bad_answers: Mapping[str, int] = field(default_factory=dict)  # answers of the endpoint that were made bad, by kind
    explained: Mapping[FailureCause, int] = field(default_factory=dict)  # queries that they may have ended, by cause
    failure: str | None = None  # why the run ended early
    parts: dict[str, str] = field(default_factory=dict)  # engine and timeouts of the run
    targets: tuple[str, ...] = PROCESSES  # what kills and pauses may hit
    phases: Sequence[Phase] = ()  # of a cluster


def compile_report(run: ChaosRun, verdict: CheckResult, bound_s: float) -> dict[str, Any]:
    answers = answered_queries(run.sent, run.seen)
    first_fault_s = min((performed.began_s for performed in run.done), default=math.inf)
    last_fault_s = max((performed.ended_s for performed in run.done), default=0.0)
    return {
        "valid": verdict.is_valid and run.failure is None,
        "failure": run.failure,
        "seed": run.plan.seed,
        "load_s": round(run.load_s, 1),
        "anomalies": verdict.counts,
        "duplicate_causes": verdict.causes,
        "observed": verdict.observed,
        "strategies": dict(sorted(Counter(record.strategy for record in run.seen if record.topic == RESPONSES.name and record.strategy).items())),
        "statuses": dict(sorted(Counter(record.status for record in run.seen if record.topic == RESPONSES.name and record.status).items())),
        "faults": _faults(run),
        "endpoint": _endpoint(run),
        "healing": {
            "counted_from": "the moment the last fault had ended and every process served",
            "last_fault_ended_s": round(last_fault_s, 2),
            "healed_s": run.healed_s,
            "processes_back_after_s": None if run.healed_s is None else round(run.healed_s - last_fault_s, 2),
            "all_answered_s": run.answered_all_s,
            "bound_s": bound_s,
        },
        "latency_ms": {"all": latencies_ms(answers), "before_faults": latencies_ms(answer for answer in answers if answer.seen_s < first_fault_s)},
        "phases": [_phase(run, phase, answers) for phase in run.phases],
        "standstill": longest_standstills(answers),
        "processes": {"recoveries_s": run.process_log.recoveries_s(), "ended_by_themselves": run.process_log.unrequested_ends(run.done)},
        "readers": {"only_read_at_the_end": run.read_at_end, "log_partitions": run.log_partitions},
        "codecs": dict(sorted(run.codecs.items())),
        "parts": run.parts,
        "listed": _listed(verdict),
        "per_second": _per_second(run, answers),
    }


def _faults(run: ChaosRun) -> dict[str, Any]:
    done = run.done
    hits = [performed for performed in done if performed.fault.kind in (*KILLS_AND_PAUSES, *CLUSTER_FAULTS)]
    return {
        "kills_and_pauses": len(hits),
        "by_process": {name: sum(hit.fault.target == name for hit in hits) for name in run.targets},
        "by_kind": dict(sorted(Counter(performed.fault.kind.value for performed in done).items())),
        "done": [asdict(performed.fault) | {"began_s": performed.began_s, "ended_s": performed.ended_s, "pid": performed.pid} for performed in done],
    }


def _phase(run: ChaosRun, phase: Phase, answers: Sequence[AnsweredQuery]) -> dict[str, Any]:
    """Figures of the queries that were sent between the fault and its healing."""
    asked = [query for query in run.sent if query.topic == QUERIES.name and query.outcome is SendOutcome.OK and phase.began_s <= query.sent_s < phase.healed_s]
    answered = [answer for answer in answers if phase.began_s <= answer.sent_s < phase.healed_s]
    return {
        "kind": phase.kind.value,
        "nodes": list(phase.nodes),
        "began_s": phase.began_s,
        "away_s": round(phase.ended_s - phase.began_s, 2),
        "healed_after_s": round(phase.healed_s - phase.began_s, 2),
        "all_answered_after_s": None if phase.answered_s is None else round(phase.answered_s - phase.began_s, 2),
        "asked": len(asked),
        "answered": len(answered),
        "longest_standstill_s": max((standstill["for_s"] for standstill in longest_standstills(answered)), default=None),
        "latency_ms": latencies_ms(answered),
    }


def _endpoint(run: ChaosRun) -> dict[str, Any]:
    """The endpoint's bad answers, and the causes of queries without a base answer: expired ones are counted separately, because a deadline ended them."""
    without = (DraftStatus.BASE_FAILED, DraftStatus.EXPIRED)  # of drafts, and of responses
    failed = {record.query_id: record for record in run.seen if record.topic in (DRAFTS.name, RESPONSES.name) and record.status in without}
    failures = Counter(f"{record.failure}{', expired' if record.status == DraftStatus.EXPIRED else ''}" for record in failed.values())
    return {
        "calls": run.endpoint_calls,
        "bad_answers": sum(run.bad_answers.values()),
        "by_kind": dict(sorted(run.bad_answers.items())),
        "queries_without_answer": dict(sorted(failures.items())),
    }


def _listed(verdict: CheckResult) -> dict[str, list[dict[str, str]]]:
    by_kind: dict[str, list[dict[str, str]]] = {}
    for anomaly in verdict.anomalies:
        anomalies = by_kind.setdefault(anomaly.kind.value, [])
        if len(anomalies) < LISTED:
            anomalies.append({"topic": anomaly.topic, "id": anomaly.id, "where": anomaly.where})
    return by_kind


def _per_second(run: ChaosRun, answers: Sequence[AnsweredQuery]) -> dict[str, dict[int, int]]:
    asked = (record.sent_s for record in run.sent if record.topic == QUERIES.name and record.outcome is SendOutcome.OK)
    return {"asked": per_second(asked), "answered": per_second(answer.seen_s for answer in answers)}


def lines(report: dict[str, Any]) -> list[str]:
    """The report as text, the result first."""
    healing, faults, observed, endpoint = report["healing"], report["faults"], report["observed"], report["endpoint"]
    text = [
        ("valid: no anomaly" if report["valid"] else "NOT VALID") + (f"; ended early: {report['failure']}" if report["failure"] else ""),
        "  ".join(f"{kind} {count}" for kind, count in report["anomalies"].items()),
        f"{observed['queries_ok']} queries acknowledged in {report['load_s']:g} s, {observed['queries_info']} unknown, {observed['queries_fail']} not sent",
        f"{faults['kills_and_pauses']} kills and pauses, all faults: {_listing(faults['by_kind'])}",
        f"batches of the load by codec: {_listing(report['codecs'])}",
        f"{endpoint['bad_answers']} bad answers of {len(endpoint['by_kind'])} kinds in {endpoint['calls']} calls of the base model; "
        f"queries without a base answer: {_listing(endpoint['queries_without_answer']) or 'none'}",
        f"duplicated responses by cause: {_listing(report['duplicate_causes'])}; "
        f"contexts repeated: {observed['contexts_repeated']}, retrievals repeated: {observed['retrievals_repeated']}",
        f"last fault ended at {healing['last_fault_ended_s']} s, all processes served {healing['processes_back_after_s']} s later, "
        f"all answered at {healing['all_answered_s']} s; unseen: no answer within {healing['bound_s']:g} s after {healing['healed_s']} s",
        f"latency ms: {_listing(report['latency_ms']['all'])}; before the first fault: {_listing(report['latency_ms']['before_faults'])}",
        *(_phase_line(phase) for phase in report["phases"]),
        "longest standstill by partition: " + ", ".join(f"{standstill['partition']}: {standstill['for_s']} s" for standstill in report["standstill"]),
        f"longest recovery of each process, s: {_listing({name: max(values) for name, values in report['processes']['recoveries_s'].items()})}",
        f"processes that ended without a fault: {_listing(report['processes']['ended_by_themselves']) or 'none'}",
    ]
    return text + [f"{kind}: {' '.join(anomaly['id'] or anomaly['where'] for anomaly in anomalies[:3])}" for kind, anomalies in report["listed"].items()]


def _phase_line(phase: dict[str, Any]) -> str:
    return (
        f"{phase['kind']} ({', '.join(phase['nodes'])}): healed after {phase['healed_after_s']} s; {phase['answered']} of {phase['asked']} answered, "
        f"longest standstill of a partition {phase['longest_standstill_s']} s, latency ms: {_listing(phase['latency_ms'])}"
    )


def _listing(figures: dict[str, Any]) -> str:
    return ", ".join(f"{name} {figure}" for name, figure in figures.items())
