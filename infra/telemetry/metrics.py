"""Every metric of this project, declared once: name, kind, unit, meaning, labels. A test fails if another module declares one.

The names are our own, `retouch_*`, but for the two metrics of OpenTelemetry's conventions for generative AI. Its names for messaging
(`messaging.process.duration` and others) may still change, and do not cover lag, age, commits or outcomes. Spans use OpenTelemetry's names
(`infra.telemetry.tracing`), because tools know those attributes.
"""

from __future__ import annotations

from enum import StrEnum

from infra.telemetry.instruments import AnyInstrument, Counter, Gauge, Histogram
from schemas.contexts import AfterStatus
from schemas.drafts import FailureCause
from schemas.feature_extraction import Flaw
from schemas.promotion import VersionState
from schemas.run_report import RunStatus

CALL_BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
#: From an interaction that is found at once to one that waited for an hour.
FRESHNESS_BOUNDS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_800, 3_600)
COMMIT_BOUNDS_MS = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 500, 1_000, 5_000, 30_000)


#: Bounds of the conventions for generative AI.
TOKEN_BOUNDS = tuple(4**power for power in range(14))
MODEL_CALL_BOUNDS_S = tuple(0.01 * 2**power for power in range(14))
_MODEL_CALL = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "server.address")


class TokenType(StrEnum):
    INPUT = "input"
    OUTPUT = "output"


class CommitOutcome(StrEnum):
    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"  # the broker did not confirm; the producer is replaced and the records are re-read


class RecordOutcome(StrEnum):
    PRODUCED = "produced"
    SET_ASIDE = "set_aside"
    REPEAT = "repeat"  # it has the identity and the content of an earlier record
    CONFLICT = "conflict"  # set aside: it has the identity of an earlier record and other content
    EXPIRED = "expired"  # its deadline passed
    DEGRADED = "degraded"  # answered with the base answer
    FORWARDED = "forwarded"  # written again on its user's partition, because the platform's partitioner chose another one


class RetryReason(StrEnum):
    """The dependency that was unavailable or refused for now."""

    ENDPOINT = "endpoint"
    BREAKER = "breaker"  # the circuit breaker is open, so the endpoint got no call
    ENGINE = "engine"
    BROKER = "broker"
    INDEX = "index"
    EMBEDDER = "embedder"  # the endpoint of embedder.url, or a process of embedder.processes
    SCHEMA_REGISTRY = "schema_registry"
    OTHER = "other"


class SkipReason(StrEnum):
    """Why a source maps no message from a record."""

    FILTER = "filter"  # its `when` is false
    TOMBSTONE = "tombstone"  # the record has no value


class ShadowOutcome(StrEnum):
    SENT = "sent"
    DROPPED = "dropped"  # no capacity left, or the challenger changed
    FAILED = "failed"


class ProfileOutcome(StrEnum):
    WRITTEN = "written"
    UNUSABLE = "unusable"  # the writer gave nothing that can be used


class StreamOutcome(StrEnum):
    DONE = "done"
    SET_ASIDE = "set_aside"
    CONFLICT = "conflict"  # set aside: it has the identity of an earlier record and other content
    FORWARDED = "forwarded"  # written again on its user's partition, because the platform's partitioner chose another one


class SloOutcome(StrEnum):
    MET = "met"
    MISSED = "missed"


class QualityOutcome(StrEnum):
    COUNTED = "counted"
    REPEAT = "repeat"  # the answer was counted before
    CONFLICT = "conflict"  # not in the figures: it has the identity of an earlier record and other content
    UNUSED = "unused"  # not about a version, or feedback that cannot be scored
    MALFORMED = "malformed"
    MEASURE_FAILED = "measure_failed"  # the domain's own measure, an entry point, raised or gave no score


TEACHER_TAUGHT = Counter("retouch_teacher_taught_total", "{outcome}", "outcomes that became a trajectory", ["teacher"])
TEACHER_REJECTED = Counter("retouch_teacher_rejected_total", "{outcome}", "outcomes rejected by the teacher's checks", ["teacher", "reason"])
PROFILES_WRITTEN = Counter("retouch_profiles_written_total", "{entry}", "tasks of the profiles worker", ["kind", "outcome"], {"outcome": ProfileOutcome})
FEATURE_ANSWERS_REFUSED = Counter(
    "retouch_feature_answers_refused_total",
    "{answer}",
    "answers of an LLM about features that cannot be used",
    ["flaw"],
    {"flaw": Flaw},
)
BASE_UNANSWERED = Counter(
    "retouch_base_unanswered_total", "{query}", "drafts and responses without a base answer, by the last failure", ["cause"], {"cause": FailureCause}
)
RESPONSES_SENT = Counter("retouch_responses_total", "{response}", "responses sent", ["status", "strategy"])
STRATEGY_FALLBACKS = Counter(
    "retouch_strategy_fallbacks_total", "{response}", "responses that a simpler strategy made, with the reason", ["strategy", "answered_by", "status"]
)
FEATURES_WITHOUT_FACTOR = Counter("retouch_features_without_factor_total", "{feature}", "features of RPM's queries that are similar to no factor of the user")
REWRITES_WITHOUT_FORMAT = Counter("retouch_rewrites_without_format_total", "{rewrite}", "rewrites that were used although their trace is missing or doubled")

GROUP_LAG = Gauge(
    "retouch_group_lag_records",
    "{record}",
    "offsets of a partition that its consumer group has not handled: unread, or read and not committed",
    ["group", "topic", "partition"],
)
GROUP_OLDEST_AGE = Gauge(
    "retouch_group_oldest_age_seconds",
    "s",
    "age of the oldest record of a partition that its consumer group has not handled, at most; 0 if there is none",
    ["group", "topic", "partition"],
)

WORKER_IN_FLIGHT = Gauge("retouch_worker_in_flight", "{record}", "records in a handler", ["worker"])
WORKER_HELD = Gauge("retouch_worker_held", "{record}", "records read and not yet committed", ["worker"])
WORKER_COMMITS = Counter("retouch_worker_commits_total", "{commit}", "transactions of results and offsets", ["worker", "outcome"], {"outcome": CommitOutcome})
WORKER_RECORDS = Counter("retouch_worker_records_total", "{record}", "records finished", ["worker", "outcome"], {"outcome": RecordOutcome})
WORKER_RETRIES = Counter("retouch_worker_retries_total", "{retry}", "failed tries that are repeated later", ["worker", "reason"], {"reason": RetryReason})
WORKER_METADATA_UNREADABLE = Counter(
    "retouch_worker_commit_metadata_unreadable_total", "{partition}", "assigned partitions whose commit metadata is not in our format"
)
WORKER_CALLS_MS = Histogram("retouch_worker_calls_ms", "ms", "duration of one try of a handler, including its calls", ["worker"], bounds=CALL_BOUNDS_MS)
WORKER_COMMIT_MS = Histogram(
    "retouch_worker_commit_ms", "ms", "duration of one commit, from the first send to the broker's confirmation", ["worker"], bounds=COMMIT_BOUNDS_MS
)

REFLECTION_VERSION = Gauge("retouch_reflection_version", "1", "1 for the version that serves; other versions have no series", ["version", "digest"])
HYDRA_VERSION = Gauge("retouch_hydra_version", "1", "1 for the version of HYDRA that a strategies worker has loaded", ["version", "digest"])
REFLECTION_REFUSED = Counter("retouch_reflection_refused_total", "{version}", "versions that a worker refused, by the alias that pointed to them", ["alias"])
REFLECTION_LOST_MESSAGES = Counter("retouch_reflection_unsaid_total", "{message}", "lost messages other than responses", ["topic"])
SHADOWS = Counter("retouch_shadows_total", "{answer}", "shadow answers", ["outcome"], {"outcome": ShadowOutcome})
BREAKER_STATE = Gauge("retouch_breaker_state", "1", "0 closed, 0.5 trying one call, 1 open", ["endpoint"])

MODEL_CALL_TOKENS = Histogram(
    "gen_ai.client.token.usage",
    "{token}",
    "tokens of one answered call of a language model",
    [*_MODEL_CALL, "gen_ai.token.type"],
    {"gen_ai.token.type": TokenType},
    bounds=TOKEN_BOUNDS,
)
MODEL_CALL_DURATION = Histogram(
    "gen_ai.client.operation.duration",
    "s",
    "duration of one call of a language model; error.type is empty for an answered one",
    [*_MODEL_CALL, "error.type"],
    bounds=MODEL_CALL_BOUNDS_S,
)

KAFKA_BATCHES_SKIPPED = Counter("retouch_kafka_batches_skipped_total", "{batch}", "batches that could not be decoded and were skipped", ["topic"])

STREAMS_BATCH_MS = Histogram("retouch_streams_batch_ms", "ms", "duration of one batch, until the index has it", ["processor"], bounds=CALL_BOUNDS_MS)
STREAMS_RECORDS = Counter("retouch_streams_records_total", "{record}", "records acknowledged", ["processor", "outcome"], {"outcome": StreamOutcome})
STREAMS_RETRIES = Counter("retouch_streams_retries_total", "{retry}", "batches that are repeated later", ["processor", "reason"], {"reason": RetryReason})
AFTER_WAIT_MS = Histogram(
    "retouch_after_wait_ms",
    "ms",
    "time that a query waited until the event of its `after` was indexed, or until it went on without",
    ["outcome"],
    {"outcome": AfterStatus},
    bounds=CALL_BOUNDS_MS,
)
FRESHNESS = Histogram(
    "retouch_freshness_seconds",
    "s",
    "time from an interaction's Kafka timestamp until a search finds it",
    ["domain"],
    bounds=FRESHNESS_BOUNDS_S,
)
FRESHNESS_SLO = Counter(
    "retouch_freshness_slo_total",
    "{interaction}",
    "interactions that a search finds, by whether that took at most streams.freshness_slo_s",
    ["domain", "outcome"],
    {"outcome": SloOutcome},
)

QUALITY_REWARD = Gauge(
    "retouch_quality_reward",
    "1",
    "mean reward of the answers in the last complete window, on this process's partitions",
    ["strategy", "version", "arm", "domain"],
)
QUALITY_SCORED = Counter("retouch_quality_scored_total", "{answer}", "answers with a reward from feedback", ["strategy", "version", "arm", "domain"])
QUALITY_SHADOWS_GIVEN_UP = Counter("retouch_quality_shadows_given_up_total", "{answer}", "shadow answers dropped without feedback")
QUALITY_RECORDS = Counter("retouch_quality_records_total", "{record}", "records read", ["topic", "outcome"], {"outcome": QualityOutcome})

TRAINING_RUNS = Counter("retouch_training_runs_total", "{run}", "ended runs of the trainer's service", ["outcome"], {"outcome": RunStatus})
PROMOTION_TRANSITIONS = Counter("retouch_promotion_transitions_total", "{transition}", "state transitions of versions", ["after"], {"after": VersionState})

SOURCES_SKIPPED = Counter(
    "retouch_sources_skipped_total", "{record}", "records of a platform's topic that a source left out", ["source", "reason"], {"reason": SkipReason}
)

METRICS: tuple[AnyInstrument, ...] = (
    TEACHER_TAUGHT,
    TEACHER_REJECTED,
    PROFILES_WRITTEN,
    FEATURE_ANSWERS_REFUSED,
    BASE_UNANSWERED,
    RESPONSES_SENT,
    STRATEGY_FALLBACKS,
    FEATURES_WITHOUT_FACTOR,
    REWRITES_WITHOUT_FORMAT,
    GROUP_LAG,
    GROUP_OLDEST_AGE,
    WORKER_IN_FLIGHT,
    WORKER_HELD,
    WORKER_COMMITS,
    WORKER_RECORDS,
    WORKER_RETRIES,
    WORKER_METADATA_UNREADABLE,
    WORKER_CALLS_MS,
    WORKER_COMMIT_MS,
    REFLECTION_VERSION,
    HYDRA_VERSION,
    REFLECTION_REFUSED,
    REFLECTION_LOST_MESSAGES,
    SHADOWS,
    BREAKER_STATE,
    MODEL_CALL_TOKENS,
    MODEL_CALL_DURATION,
    KAFKA_BATCHES_SKIPPED,
    STREAMS_BATCH_MS,
    STREAMS_RECORDS,
    STREAMS_RETRIES,
    AFTER_WAIT_MS,
    FRESHNESS,
    FRESHNESS_SLO,
    QUALITY_REWARD,
    QUALITY_SCORED,
    QUALITY_SHADOWS_GIVEN_UP,
    QUALITY_RECORDS,
    TRAINING_RUNS,
    PROMOTION_TRANSITIONS,
    SOURCES_SKIPPED,
)
