"""The topology: every topic with its message, key, writers, readers and retention."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from schemas.contexts import Context
from schemas.drafts import Draft
from schemas.erasures import ErasureRequest
from schemas.feedback import Feedback
from schemas.interactions import Interaction
from schemas.lookups import Lookup, Retrieval
from schemas.messages import Message
from schemas.model_events import ModelEvent
from schemas.outcomes import Outcome
from schemas.profiles import ProfileEntry, ProfileTask
from schemas.quality import Quality
from schemas.queries import Query
from schemas.responses import Response
from schemas.serving import ServingReport
from schemas.shadows import Shadow
from schemas.trajectories import Trajectory

#: Online quality needs WEEKS: after a restart it re-reads an experiment from its beginning, and a canary may take `promotion.canary_max_s`.
DAYS, WEEKS, MONTHS = timedelta(days=7), timedelta(days=14), timedelta(days=90)
FOREVER = None
#: Segment size of compacted topics. Kafka compacts closed segments only, so a reader from the beginning reads the whole open one.
SEGMENT_BYTES = 16_777_216
#: The largest record a topic takes, in bytes; producers check it before the broker does.
MAX_MESSAGE_BYTES = 1_048_576
DEAD_LETTER_SUFFIX = "-dlt"


@dataclass(frozen=True)
class Topic:
    """One topic. `retention` None: records are kept forever. `compacted`: the last record of each key is kept for `retention`."""

    name: str
    message: type[Message]
    key: str
    written_by: str
    read_by: str
    retention: timedelta | None = FOREVER
    compacted: bool = False

    def config(self) -> dict[str, str]:
        """The topic's configuration on the broker."""
        retention_ms = -1 if self.retention is None else int(self.retention.total_seconds() * 1000)
        config = {
            "cleanup.policy": "delete",
            "retention.ms": str(retention_ms),
            "retention.bytes": "-1",  # a broker's own default would delete more
            "message.timestamp.type": "CreateTime",
            "max.message.bytes": str(MAX_MESSAGE_BYTES),
        }
        if self.compacted:
            # Tombstones outlive the slowest consumer: seven days.
            policy = "compact" if self.retention is None else "compact,delete"
            config |= {"cleanup.policy": policy, "delete.retention.ms": str(int(DAYS.total_seconds() * 1000)), "segment.bytes": str(SEGMENT_BYTES)}
        return config


INTERACTIONS = Topic("interactions", Interaction, "tenant/user", "platform, sources worker, outcomes", "history")
QUERIES = Topic("queries", Query, "tenant/user", "platform, sources worker", "base worker", DAYS)
DRAFTS = Topic("drafts", Draft, "tenant/user", "base worker", "retrieval", DAYS)
CONTEXTS = Topic("contexts", Context, "tenant/user", "retrieval", "reflection worker", DAYS)
LOOKUPS = Topic("lookups", Lookup, "tenant/user", "base worker, strategies worker", "retrieval", DAYS)
RETRIEVALS = Topic("retrievals", Retrieval, "tenant/user", "retrieval", "strategies worker", DAYS)
RESPONSES = Topic("responses", Response, "tenant/user", "base worker, strategies worker, reflection worker", "platform, outcomes, quality", WEEKS)
FEEDBACK = Topic("feedback", Feedback, "tenant/user", "platform, sources worker", "outcomes")
OUTCOMES = Topic("outcomes", Outcome, "tenant/user", "outcomes", "teacher, trainer, quality")
TRAJECTORIES = Topic("trajectories", Trajectory, "tenant/user", "teacher", "trainer")
PROFILE_TASKS = Topic("profile-tasks", ProfileTask, "tenant/user", "retrieval, history, profiles", "profiles worker", DAYS)
PROFILES = Topic("profiles", ProfileEntry, "tenant/user", "profiles worker", "profiles")
SHADOWS = Topic("shadows", Shadow, "tenant/user", "reflection worker", "quality", WEEKS)
QUALITY = Topic("quality", Quality, "cell", "quality", "promoter, trainer", MONTHS, compacted=True)
MODEL_EVENTS = Topic("model-events", ModelEvent, "model name", "promoter", "reflection worker", compacted=True)
SERVING = Topic("serving", ServingReport, "worker", "reflection worker", "promoter", compacted=True)
ERASURES = Topic("erasures", ErasureRequest, "tenant/user", "platform", "trainer", compacted=True)

TOPICS = (
    *(INTERACTIONS, QUERIES, DRAFTS, CONTEXTS, LOOKUPS, RETRIEVALS, RESPONSES, FEEDBACK, OUTCOMES, TRAJECTORIES),
    *(PROFILE_TASKS, PROFILES),
    *(SHADOWS, QUALITY, MODEL_EVENTS, SERVING, ERASURES),
)
#: Topics with a user's records that the platform writes, with any partitioner (infra.kafka.forwarding).
PLATFORM_TOPICS = (INTERACTIONS, QUERIES, FEEDBACK)
#: Topics whose consumers have a dead-letter topic. `model-events` has none: each worker reads every event, and an event is only a hint.
DEAD_LETTERED = (
    INTERACTIONS,
    QUERIES,
    DRAFTS,
    CONTEXTS,
    LOOKUPS,
    RETRIEVALS,
    RESPONSES,
    FEEDBACK,
    OUTCOMES,
    TRAJECTORIES,
    PROFILE_TASKS,
    PROFILES,
)


#: The changelog of the streams process's join state. It has the partitions of `responses`.
JOIN_STATE_CHANGELOG = "retouch-streams-halves-changelog"
#: Maximum size of one of its records, which holds a record of MAX_MESSAGE_BYTES and its ids.
JOIN_STATE_CHANGELOG_BYTES = 2 * MAX_MESSAGE_BYTES


#: The topic of redrive records; compacted, one record for each dead letter (infra.kafka.dead_letter_topics).
REDRIVEN = "dlq-redriven"
#: The transactional id that all redrives share (infra.kafka.dead_letter_topics).
REDRIVE_TRANSACTIONS = "retouch-dlq"


def declared_names() -> tuple[str, ...]:
    """The names of all topics: TOPICS, their dead-letter topics, the redrive records, the changelog."""
    dead_letters = (dead_letter_topic(topic.name) for topic in DEAD_LETTERED)
    return (*(topic.name for topic in TOPICS), *dead_letters, REDRIVEN, JOIN_STATE_CHANGELOG)


def read_by(*processes: str) -> tuple[Topic, ...]:
    """The topics that these processes read, by the names of `Topic.read_by`."""
    return tuple(topic for topic in TOPICS if set(processes) & set(topic.read_by.split(", ")))


def written_by(*processes: str) -> tuple[Topic, ...]:
    """The topics that these processes write, by the names of `Topic.written_by`. Dead-letter topics are not among them."""
    return tuple(topic for topic in TOPICS if set(processes) & set(topic.written_by.split(", ")))


def consumer_group(reader: str) -> str:
    """The consumer group of `reader`, such as `retouch-streams`."""
    return f"retouch-{reader}"


def dead_letter_topic(name: str) -> str:
    """The topic for unusable records of `name` (Spring Kafka's suffix)."""
    return name + DEAD_LETTER_SUFFIX
