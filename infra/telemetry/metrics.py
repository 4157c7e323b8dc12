"""Every metric of this project, declared once: name, kind, unit, meaning, labels. Nothing else declares one; a test looks.

Names are our own, `retouch_*`, although OpenTelemetry has a few for messaging (`messaging.process.duration` and kin): those are in development and may
still change, have none for lag, age, commits or outcomes, and half a dashboard under another prefix is harder to read than one. Spans are
the other way round (`infra.telemetry.tracing`): there the tools know the conventions' attributes by name.
"""

from __future__ import annotations

from enum import StrEnum

from infra.telemetry.instruments import AnyInstrument, Counter, Gauge, Histogram
from schemas.promotion import VersionState

CALL_BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
COMMIT_BOUNDS_MS = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 500, 1_000, 5_000, 30_000)


class CommitOutcome(StrEnum):
    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"  # the broker did not say; the producer is thrown away and the records are read again


class RecordOutcome(StrEnum):
    PRODUCED = "produced"
    SET_ASIDE = "set_aside"
    REPEAT = "repeat"  # answered before, by its id
    EXPIRED = "expired"  # its deadline had passed
    DEGRADED = "degraded"  # answered without what should have made it better


class RetryReason(StrEnum):
    """What was away, or refused for now."""

    ENDPOINT = "endpoint"
    BREAKER = "breaker"  # the endpoint was not even asked
    ENGINE = "engine"
    BROKER = "broker"
    INDEX = "index"
    OTHER = "other"


class ShadowOutcome(StrEnum):
    SENT = "sent"
    DROPPED = "dropped"  # no room, no quiet moment, or the challenger had gone
    FAILED = "failed"


class StreamOutcome(StrEnum):
    DONE = "done"
    SET_ASIDE = "set_aside"
    REPEAT = "repeat"


class QualityOutcome(StrEnum):
    COUNTED = "counted"
    REPEAT = "repeat"  # of an answer that was counted before
    UNUSED = "unused"  # says nothing of a version, or is feedback of which nothing can be scored
    MALFORMED = "malformed"


TEACHER_TAUGHT = Counter("retouch_teacher_taught_total", "{outcome}", "outcomes that became a trajectory", ["teacher"])
TEACHER_REJECTED = Counter("retouch_teacher_rejected_total", "{outcome}", "outcomes that became none", ["teacher", "reason"])
RESPONSES_SENT = Counter("retouch_responses_total", "{response}", "answers that went out", ["status", "strategy"])

WORKER_LAG = Gauge("retouch_worker_lag_records", "{record}", "records on a partition behind what is committed", ["topic", "partition"])
WORKER_OLDEST = Gauge("retouch_worker_oldest_unhandled_seconds", "s", "age of the oldest record that is read and not yet durable", ["topic"])
WORKER_IN_FLIGHT = Gauge("retouch_worker_in_flight", "{record}", "records whose handlers run", ["worker"])
WORKER_HELD = Gauge("retouch_worker_held", "{record}", "records read and not yet durable", ["worker"])
WORKER_COMMITS = Counter(
    "retouch_worker_commits_total", "{commit}", "commits of results and offsets together", ["worker", "outcome"], {"outcome": CommitOutcome}
)
WORKER_RECORDS = Counter("retouch_worker_records_total", "{record}", "records finished", ["worker", "outcome"], {"outcome": RecordOutcome})
WORKER_RETRIES = Counter("retouch_worker_retries_total", "{retry}", "tries that failed and were put off", ["worker", "reason"], {"reason": RetryReason})
WORKER_METADATA_UNREADABLE = Counter(
    "retouch_worker_commit_metadata_unreadable_total", "{partition}", "partitions taken over whose commit metadata something else had written"
)
WORKER_CALLS_MS = Histogram("retouch_worker_calls_ms", "ms", "one try of a handler, its calls included", ["worker"], bounds=CALL_BOUNDS_MS)
WORKER_COMMIT_MS = Histogram("retouch_worker_commit_ms", "ms", "one commit, from the first send to the broker's word", ["worker"], bounds=COMMIT_BOUNDS_MS)

REFLECTION_VERSION = Gauge("retouch_reflection_version", "1", "1 for the version being served; others have no series", ["version", "digest"])
REFLECTION_REFUSED = Counter("retouch_reflection_refused_total", "{version}", "versions that were not let in, by the alias that named them", ["alias"])
REFLECTION_UNSAID = Counter("retouch_reflection_unsaid_total", "{message}", "messages beside the answers that were lost", ["topic"])
SHADOWS = Counter("retouch_shadows_total", "{answer}", "unseen answers", ["outcome"], {"outcome": ShadowOutcome})
BREAKER_STATE = Gauge("retouch_breaker_state", "1", "0 closed, 0.5 trying one call, 1 open", ["endpoint"])

STREAMS_BATCH_MS = Histogram("retouch_streams_batch_ms", "ms", "one batch, until the index has it", ["processor"], bounds=CALL_BOUNDS_MS)
STREAMS_RECORDS = Counter("retouch_streams_records_total", "{record}", "records acknowledged", ["processor", "outcome"], {"outcome": StreamOutcome})
STREAMS_RETRIES = Counter("retouch_streams_retries_total", "{retry}", "batches put off", ["processor", "reason"], {"reason": RetryReason})

QUALITY_REWARD = Gauge(
    "retouch_quality_reward", "1", "mean reward of the last whole window's answers, on this process's partitions", ["version", "arm", "domain"]
)
QUALITY_SCORED = Counter("retouch_quality_scored_total", "{answer}", "answers that feedback gave a reward", ["version", "arm", "domain"])
QUALITY_SHADOWS_GIVEN_UP = Counter("retouch_quality_shadows_given_up_total", "{answer}", "shadow answers that no feedback judged in time")
QUALITY_RECORDS = Counter("retouch_quality_records_total", "{record}", "records read", ["topic", "outcome"], {"outcome": QualityOutcome})

PROMOTION_TRANSITIONS = Counter("retouch_promotion_transitions_total", "{transition}", "steps taken by versions", ["after"], {"after": VersionState})

METRICS: tuple[AnyInstrument, ...] = (
    TEACHER_TAUGHT,
    TEACHER_REJECTED,
    RESPONSES_SENT,
    WORKER_LAG,
    WORKER_OLDEST,
    WORKER_IN_FLIGHT,
    WORKER_HELD,
    WORKER_COMMITS,
    WORKER_RECORDS,
    WORKER_RETRIES,
    WORKER_METADATA_UNREADABLE,
    WORKER_CALLS_MS,
    WORKER_COMMIT_MS,
    REFLECTION_VERSION,
    REFLECTION_REFUSED,
    REFLECTION_UNSAID,
    SHADOWS,
    BREAKER_STATE,
    STREAMS_BATCH_MS,
    STREAMS_RECORDS,
    STREAMS_RETRIES,
    QUALITY_REWARD,
    QUALITY_SCORED,
    QUALITY_SHADOWS_GIVEN_UP,
    QUALITY_RECORDS,
    PROMOTION_TRANSITIONS,
)
