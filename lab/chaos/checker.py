"""Checks a run: compares the records sent, the records read, and the broker's log. No I/O; uses only the ids of messages.

Anomalies, named as in Jepsen:

- lost-write    an acknowledged query without a response, or an acknowledged record that is not on its topic
- duplicate     more than one draft, lookup or response of a query at read_committed, counted by offset: one record that a reader gets twice is no duplicate
- unseen        an acknowledged query whose response was not visible `bound_s` after healing, or after its own acknowledgement; includes lost queries
- replica       a committed record that the log of one broker has and the log of another lacks, or has as another one
- aborted-read  a record that a reader at read_committed got although the log says that it was aborted, or never committed
- unread        a committed draft, lookup or response that no reader at read_committed got
- phantom       a draft, lookup or response to a query that was not sent
- unexplained   a draft, or a response without a draft, that has no answer and that no bad answer of the endpoint explains, or that names no cause
- strategy      a draft, lookup or response of another strategy than its query names, or a draft of a strategy that makes none
- reasoning     a draft or response that shows a model's reasoning
- out-of-order  a user's response before the response to an earlier query of the same user that went the same way; always counted, an anomaly only with order
                per key. The ways: base worker alone, as for an expired query; reflection worker; strategies worker

The streams write contexts and retrievals at least once, with equal ids: repeats are counted and are no anomaly. A second response to one is a duplicate;
`causes` counts these separately.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lab.chaos.records import SeenRecord, SendOutcome, SentRecord, first_of_each_record
from lab.chaos.segments import RecordFate
from schemas.drafts import DraftStatus, FailureCause
from schemas.strategies import ASKS_FIRST, Strategy
from schemas.topics import CONTEXTS, DEAD_LETTER_SUFFIX, DRAFTS, FEEDBACK, LOOKUPS, OUTCOMES, QUERIES, RESPONSES, RETRIEVALS, TRAJECTORIES

#: The fate of every record by the log: by topic and partition, then by offset.
Fates = Mapping[tuple[str, int], Mapping[int, RecordFate]]
#: The topics with at most one record for each query; every query has a response.
ONCE = (DRAFTS.name, LOOKUPS.name, RESPONSES.name)


class AnomalyKind(StrEnum):
    LOST_WRITE = "lost-write"
    DUPLICATE = "duplicate"
    UNSEEN = "unseen"
    REPLICA = "replica"
    ABORTED_READ = "aborted-read"
    UNREAD = "unread"
    PHANTOM = "phantom"
    UNEXPLAINED = "unexplained"
    STRATEGY = "strategy"
    REASONING = "reasoning"
    OUT_OF_ORDER = "out-of-order"


@dataclass(frozen=True)
class Disturbance:
    """A time with faults, up to the moment from which the system must answer again."""

    began_s: float
    healed_s: float


@dataclass(frozen=True)
class Anomaly:
    """`id` is the query's, or the record's if it has no query; `where` names records as topic-partition@offset."""

    kind: AnomalyKind
    topic: str
    id: str
    where: str = ""


@dataclass(frozen=True)
class CheckResult:
    anomalies: tuple[Anomaly, ...]
    counts: dict[str, int]  # by kind of anomaly; out-of-order is always counted
    causes: dict[str, int]  # of duplicated responses: the earliest repeated record
    observed: dict[str, int] = field(default_factory=dict)  # figures that do not decide validity

    @property
    def is_valid(self) -> bool:
        return not self.anomalies


def check(
    sent: Sequence[SentRecord],
    seen: Iterable[SeenRecord],
    fates: Fates,
    *,
    healed_s: float | None,
    bound_s: float,
    ordered: bool = False,
    disturbances: Sequence[Disturbance] = (),
    replicas: Mapping[str, Fates] | None = None,
    explained: Mapping[FailureCause, int] | None = None,
) -> CheckResult:
    """`seen` may contain a record several times, from several readers. `healed_s` is None if the system never recovered.

    `disturbances`, in order of time, if the system also had to recover during the load; otherwise all time before `healed_s` is one.
    `replicas`: the fates by each broker's log; `fates` are those of one of them.
    `explained`: how many queries the bad answers of the endpoint may have ended, by cause.
    """
    by_ref = {record.ref: record for record in first_of_each_record(seen)}
    records = _Records(sent, list(by_ref.values()))
    out_of_order = _out_of_order(records)
    anomalies = [
        *_lost(records),
        *_duplicates(records),
        *_unseen(records, None if healed_s is None else (*disturbances,) or (Disturbance(-math.inf, healed_s),), bound_s),
        *_replicas(replicas or {}),
        *_aborted_reads(by_ref, fates),
        *_unread(by_ref, fates),
        *_phantoms(records),
        *_unexplained(records, explained or {}),
        *_other_strategies(records),
        *(Anomaly(AnomalyKind.REASONING, record.topic, record.query_id or "", _where([record])) for record in records.seen if record.shows_reasoning),
        *(out_of_order if ordered else ()),
    ]
    counts = Counter(anomaly.kind for anomaly in anomalies)
    counts[AnomalyKind.OUT_OF_ORDER] = len(out_of_order)
    return CheckResult(tuple(anomalies), {kind.value: counts[kind] for kind in AnomalyKind}, _causes(records), _observed(records))


class _Records:
    """Sent and seen records by query."""

    def __init__(self, sent: Sequence[SentRecord], seen: Sequence[SeenRecord]) -> None:
        self.sent = sent
        self.seen = seen
        self.queries = {record.id: record for record in sent if record.topic == QUERIES.name}
        self.ids_on: dict[str, set[str]] = defaultdict(set)
        self.of_query: dict[str, dict[str, list[SeenRecord]]] = defaultdict(lambda: defaultdict(list))
        for record in sorted(seen, key=lambda record: (record.partition, record.offset)):
            self.ids_on[record.topic].add(record.id)
            if record.query_id is not None:
                self.of_query[record.topic][record.query_id].append(record)

    @property
    def acknowledged(self) -> list[SentRecord]:
        return [query for query in self.queries.values() if query.outcome is SendOutcome.OK]

    def equal_ids(self, topic: str) -> int:
        """Number of records after the first of each id."""
        return sum(record.topic == topic for record in self.seen) - len(self.ids_on[topic])

    def repeats(self, topic: str) -> dict[str, list[SeenRecord]]:
        """The surplus records of each query: more than the number of times that the query is on its topic."""
        asked = self.of_query[QUERIES.name]
        surplus = {id: records_of_query[max(1, len(asked.get(id, ()))) :] for id, records_of_query in self.of_query[topic].items()}
        return {id: records_of_query for id, records_of_query in surplus.items() if records_of_query}


def _lost(records: _Records) -> list[Anomaly]:
    unanswered = [query for query in records.acknowledged if query.id not in records.of_query[RESPONSES.name]]
    missing = [record for record in records.sent if record.outcome is SendOutcome.OK and record.id not in records.ids_on[record.topic]]
    return [Anomaly(AnomalyKind.LOST_WRITE, RESPONSES.name, query.id) for query in unanswered] + [
        Anomaly(AnomalyKind.LOST_WRITE, record.topic, record.id, f"{record.topic}-{record.partition}@{record.offset}") for record in missing
    ]


def _duplicates(records: _Records) -> list[Anomaly]:
    return [Anomaly(AnomalyKind.DUPLICATE, topic, id, _where(records.of_query[topic][id])) for topic in ONCE for id in records.repeats(topic)]


def _unseen(records: _Records, disturbances: Sequence[Disturbance] | None, bound_s: float) -> list[Anomaly]:
    """`disturbances` is None if the system never recovered: then only a missing response is one."""
    anomalies = []
    for query in records.acknowledged:
        responses = records.of_query[RESPONSES.name].get(query.id)
        acknowledged_s = query.settled_s if query.settled_s is not None else query.sent_s
        by_s = math.inf if disturbances is None else answered_by_s(acknowledged_s, disturbances, bound_s)
        if not responses or min(response.seen_s for response in responses) > by_s:
            anomalies.append(Anomaly(AnomalyKind.UNSEEN, RESPONSES.name, query.id, _where(responses or [])))
    return anomalies


def answered_by_s(acknowledged_s: float, disturbances: Iterable[Disturbance], bound_s: float) -> float:
    """When the response must be visible: the bound counts from the end of each disturbance that begins before the response is due."""
    by_s = acknowledged_s + bound_s
    for disturbance in disturbances:
        if acknowledged_s <= disturbance.healed_s and disturbance.began_s < by_s:
            by_s = max(by_s, disturbance.healed_s + bound_s)
    return by_s


def _replicas(replicas: Mapping[str, Fates]) -> list[Anomaly]:
    committed: dict[tuple[str, int], set[int]] = defaultdict(set)
    for fates in replicas.values():
        for place, by_offset in fates.items():
            committed[place] |= {offset for offset, fate in by_offset.items() if fate is RecordFate.COMMITTED}
    return [
        Anomaly(AnomalyKind.REPLICA, topic, "", f"{topic}-{partition}@{offset} {broker}: {fates.get((topic, partition), {}).get(offset) or 'not in the log'}")
        for (topic, partition), offsets in committed.items()
        for broker, fates in replicas.items()
        for offset in sorted(offsets)
        if fates.get((topic, partition), {}).get(offset) is not RecordFate.COMMITTED
    ]


def _aborted_reads(by_ref: Mapping[tuple[str, int, int], SeenRecord], fates: Fates) -> list[Anomaly]:
    anomalies = []
    for (topic, partition, offset), record in by_ref.items():
        if (topic, partition) not in fates:
            continue
        fate = fates[topic, partition].get(offset)
        if fate is not RecordFate.COMMITTED:
            anomalies.append(Anomaly(AnomalyKind.ABORTED_READ, topic, record.query_id or record.id, f"{_where([record])} {fate or 'not in the log'}"))
    return anomalies


def _unread(by_ref: Mapping[tuple[str, int, int], SeenRecord], fates: Fates) -> list[Anomaly]:
    return [
        Anomaly(AnomalyKind.UNREAD, topic, "", f"{topic}-{partition}@{offset}")
        for (topic, partition), by_offset in fates.items()
        if topic in ONCE
        for offset, fate in by_offset.items()
        if fate is RecordFate.COMMITTED and (topic, partition, offset) not in by_ref
    ]


def _phantoms(records: _Records) -> list[Anomaly]:
    sent_ids = {id for id, query in records.queries.items() if query.outcome is not SendOutcome.FAIL}
    return [
        Anomaly(AnomalyKind.PHANTOM, topic, id, _where(records_of_query))
        for topic in ONCE
        for id, records_of_query in records.of_query[topic].items()
        if id not in sent_ids
    ]


#: Causes that end a query with a single answer. The others remain after several tries, or occur during faults.
ONE_ANSWER = {
    FailureCause.NO_TEXT,
    FailureCause.ONLY_REASONING,
    FailureCause.FILTERED,
    FailureCause.ANSWER_TOO_LONG,
    FailureCause.PROMPT_TOO_LONG,
    FailureCause.PROMPT_REFUSED,
}


def _unexplained(records: _Records, explained: Mapping[FailureCause, int]) -> list[Anomaly]:
    """For each cause the queries that exceed the number of bad answers with this cause, and all queries that failed without a known cause."""
    by_cause: dict[str, list[SeenRecord]] = defaultdict(list)
    for made in (records.of_query[RESPONSES.name] | records.of_query[DRAFTS.name]).values():
        if made[0].status == DraftStatus.BASE_FAILED:
            by_cause[made[0].failure or FailureCause.OTHER].append(made[0])
    surplus = [record for cause in ONE_ANSWER for record in by_cause[cause][explained.get(cause, 0) :]]
    unexplained = [*surplus, *by_cause[FailureCause.OTHER]]
    return [Anomaly(AnomalyKind.UNEXPLAINED, record.topic, record.query_id or "", _where([record])) for record in unexplained]


#: Strategies whose queries have records on a topic. All have responses.
_MADE_FOR = {DRAFTS.name: {Strategy.RPO}, LOOKUPS.name: set(Strategy) - ASKS_FIRST, RESPONSES.name: set(Strategy)}


def _other_strategies(records: _Records) -> list[Anomaly]:
    named = {id: query.strategy for id, query in records.queries.items() if query.strategy}
    made = [(record, strategy) for record in records.seen if record.topic in ONCE and (strategy := named.get(record.query_id or ""))]
    wrong = [record for record, strategy in made if record.strategy != strategy or strategy not in _MADE_FOR[record.topic]]
    return [Anomaly(AnomalyKind.STRATEGY, record.topic, record.query_id or "", _where([record])) for record in wrong]


def _out_of_order(records: _Records) -> list[Anomaly]:
    """First responses whose query is before an answered query of the same key and way, in the order of the log. Order is per key and topic."""
    asked_at = {id: records_of_query[0].offset for id, records_of_query in records.of_query[QUERIES.name].items()}
    answered = sorted(
        (records_of_query[0] for id, records_of_query in records.of_query[RESPONSES.name].items() if id in asked_at),
        key=lambda response: (response.partition, response.offset),
    )
    latest: dict[tuple[str, str], int] = {}
    anomalies = []
    for response in answered:
        assert response.query_id is not None
        answered_from = next((topic for topic in (CONTEXTS.name, RETRIEVALS.name) if response.query_id in records.of_query[topic]), QUERIES.name)
        way, offset = (response.key, answered_from), asked_at[response.query_id]
        if offset < latest.get(way, -1):
            anomalies.append(Anomaly(AnomalyKind.OUT_OF_ORDER, response.topic, response.query_id, _where([response])))
        latest[way] = max(offset, latest.get(way, -1))
    return anomalies


#: A query has the records of one way only.
_CAUSES = {"draft-twice": DRAFTS.name, "context-twice": CONTEXTS.name, "lookup-twice": LOOKUPS.name, "retrieval-twice": RETRIEVALS.name}


def _causes(records: _Records) -> dict[str, int]:
    """The origin of each duplicated response, the earliest repeated record. `made-here`: a worker answered one record twice."""
    repeated = {cause: records.repeats(topic) for cause, topic in _CAUSES.items()}
    causes = Counter(next((cause for cause, ids in repeated.items() if id in ids), "made-here") for id in records.repeats(RESPONSES.name))
    return {cause: causes[cause] for cause in (*_CAUSES, "made-here")}


def _observed(records: _Records) -> dict[str, int]:
    outcomes = Counter(query.outcome for query in records.queries.values())
    by_topic = Counter(record.topic for record in records.seen)
    repeats = [surplus for topic in ONCE for surplus in records.repeats(topic).values()]
    different = sum(
        len({record.id for record in records.of_query[records_of_query[0].topic][records_of_query[0].query_id or ""]}) > 1 for records_of_query in repeats
    )
    return {
        "queries_ok": outcomes[SendOutcome.OK],
        "queries_fail": outcomes[SendOutcome.FAIL],
        "queries_info": outcomes[SendOutcome.INFO],
        "queries_on_topic_twice": sum(len(records_of_query) > 1 for records_of_query in records.of_query[QUERIES.name].values()),
        "contexts_repeated": len(records.repeats(CONTEXTS.name)),
        "retrievals_repeated": len(records.repeats(RETRIEVALS.name)),
        "outcomes_repeated": records.equal_ids(OUTCOMES.name),
        "trajectories_repeated": records.equal_ids(TRAJECTORIES.name),
        "feedback_without_outcome": len(records.of_query[FEEDBACK.name].keys() - records.of_query[OUTCOMES.name].keys()),
        "repeats_with_another_id": different,
        "keys_out_of_order": len({records.queries[anomaly.id].key for anomaly in _out_of_order(records) if anomaly.id in records.queries}),
        "dead_letters": sum(count for topic, count in by_topic.items() if topic.endswith(DEAD_LETTER_SUFFIX)),
        **{f"records_{topic}": count for topic, count in sorted(by_topic.items()) if not topic.endswith(DEAD_LETTER_SUFFIX)},
    }


def _where(records: Sequence[SeenRecord]) -> str:
    return " ".join(f"{record.topic}-{record.partition}@{record.offset}" for record in records)
