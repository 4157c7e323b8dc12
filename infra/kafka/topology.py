"""The topics on the broker against those that `schemas.topics` declares: create what is missing, say what differs.

Nothing is ever taken away: partitions of an existing topic are left as they are (more of them would move users to other partitions and break
their order), limits are only raised, a cleanup policy is never changed. What is left shows in `describe`, for a person to decide.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from infra.errors import CannotContinue
from infra.kafka.clients import admin
from infra.kafka.errors import broker_errors
from infra.settings import Settings
from schemas.topics import DEAD_LETTER_SUFFIX, DEAD_LETTERED, FOREVER, MAX_MESSAGE_BYTES, TOPICS, Topic, dead_letter_topic

#: What the dead-letter headers may add to a record that was as large as its topic takes.
DEAD_LETTER_HEADER_BYTES = 65_536
TIMEOUT_MS = 15_000
#: Which dead letters `retouch dlq redrive` has sent again; compacted, one mark a letter (infra.kafka.dead_letter_topics).
REDRIVEN = "dlq-redriven"
#: Made by whoever keeps its state in it, with as many partitions as it needs; `streams.app.join_state` says the same name.
CHANGELOGS = frozenset({"retouch-streams-halves-changelog"})


@dataclass(frozen=True)
class Declared:
    """A topic as it should be."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


@dataclass(frozen=True)
class Difference:
    """One setting that is not as declared."""

    name: str
    declared: str
    actual: str


@dataclass(frozen=True)
class TopicState:
    """A declared topic and how the broker's differs."""

    name: str
    exists: bool
    partitions: int  # 0 where it is missing
    differences: tuple[Difference, ...]

    @property
    def as_declared(self) -> bool:
        return self.exists and not self.differences


@dataclass(frozen=True)
class Description:
    """Declared against actual. `undeclared` names topics that look like ours and are not; they are no difference."""

    topics: tuple[TopicState, ...]
    undeclared: tuple[str, ...]

    @property
    def as_declared(self) -> bool:
        return all(topic.as_declared for topic in self.topics)

    def as_data(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "as_declared": self.as_declared,
            "topics": [asdict(t) | {"as_declared": t.as_declared} for t in self.topics],
            "undeclared": list(self.undeclared),
        }


@dataclass(frozen=True)
class Applied:
    """What `apply` did: topics created, and `topic setting` for each limit that was raised."""

    created: tuple[str, ...]
    raised: tuple[str, ...]


def declared_topics(settings: Settings) -> tuple[Declared, ...]:
    """Every topic, then its dead-letter topic, with the partitions that new topics get, then the marks of redriven letters."""
    dead_letters = [Topic(dead_letter_topic(t.name), t.message, t.key, "whoever failed", "dead-letter tools", FOREVER) for t in DEAD_LETTERED]
    ours = [Declared(t.name, settings.kafka.partitions, settings.kafka.replication_factor, _config(t)) for t in (*TOPICS, *dead_letters)]
    return (*ours, Declared(REDRIVEN, 1, settings.kafka.replication_factor, {"cleanup.policy": "compact"}))


def apply(settings: Settings) -> Applied:
    """Bring the broker to at least what is declared; doing it twice changes nothing. Blocks until new topics have leaders.

    Raises CannotContinue when the broker does not answer or refuses.
    """
    with _connected(settings) as client:
        before = _describe(client, settings)
        missing = [state.name for state in before.topics if not state.exists]
        if missing:
            _create(client, [topic for topic in declared_topics(settings) if topic.name in missing])
        growing = _growing(before)
        if growing:
            _raise_limits(client, growing)
            deadline = time.monotonic() + TIMEOUT_MS / 1000
            while _growing(_describe(client, settings)) and time.monotonic() < deadline:  # the broker learns of it a moment later
                time.sleep(0.05)
        return Applied(tuple(missing), tuple(f"{topic} {name}" for topic, limits in growing.items() for name in limits))


def describe(settings: Settings) -> Description:
    """Declared against actual. Raises CannotContinue when the broker does not answer."""
    with _connected(settings) as client:
        return _describe(client, settings)


def _config(topic: Topic) -> dict[str, str]:
    config = topic.config()
    if topic.name.endswith(DEAD_LETTER_SUFFIX):
        config["max.message.bytes"] = str(MAX_MESSAGE_BYTES + DEAD_LETTER_HEADER_BYTES)
    return config


@contextmanager
def _connected(settings: Settings) -> Iterator[Any]:
    with broker_errors(settings, CannotContinue):
        client = admin(settings, bootstrap_timeout_ms=TIMEOUT_MS)
        try:
            yield client
        finally:
            client.close()


def _describe(client: Any, settings: Settings) -> Description:
    declared = declared_topics(settings)
    present = {topic["name"]: topic for topic in client.describe_topics() if topic["error_code"] == 0}
    wanted = [_resource(topic.name, dict.fromkeys(topic.config)) for topic in declared if topic.name in present]
    configs = client.describe_configs(wanted, config_filter="all").get("topic", {}) if wanted else {}
    states = tuple(_state(topic, present.get(topic.name), configs.get(topic.name, {})) for topic in declared)
    ours = {topic.name for topic in declared} | CHANGELOGS
    undeclared = (name for name in present if name not in ours and (name.startswith("retouch") or name.endswith(DEAD_LETTER_SUFFIX)))
    return Description(states, tuple(sorted(undeclared)))


def _state(topic: Declared, found: dict[str, Any] | None, config: dict[str, Any]) -> TopicState:
    if found is None:
        return TopicState(topic.name, exists=False, partitions=0, differences=())
    partitions = found["partitions"]
    actual = {"partitions": str(len(partitions)), "replication factor": str(min(len(p["replica_nodes"]) for p in partitions))}
    actual |= {name: entry["value"] for name, entry in config.items()}
    expected = {"partitions": str(topic.partitions), "replication factor": str(topic.replication_factor), **topic.config}
    differences = tuple(Difference(name, value, actual[name]) for name, value in expected.items() if actual[name] != value)
    return TopicState(topic.name, exists=True, partitions=len(partitions), differences=differences)


def _create(client: Any, topics: list[Declared]) -> None:
    """Somebody else may create the same topics at the same moment; that is no failure."""
    new = {t.name: {"num_partitions": t.partitions, "replication_factor": t.replication_factor, "configs": t.config} for t in topics}
    response = client.create_topics(new, raise_errors=False)
    from kafka.errors import TopicAlreadyExistsError

    for result in response["topics"]:
        if result["error_code"] not in (0, TopicAlreadyExistsError.errno):
            raise CannotContinue(f"the broker refuses topic {result['name']}: {result['error_message']}")
    client.wait_for_topics([t.name for t in topics], timeout_ms=TIMEOUT_MS)


def _growing(description: Description) -> dict[str, dict[str, str]]:
    """By topic, the limits whose declared value keeps everything that the actual one keeps."""
    growing = {state.name: {d.name: d.declared for d in state.differences if _raises(d)} for state in description.topics}
    return {topic: limits for topic, limits in growing.items() if limits}


def _raises(difference: Difference) -> bool:
    if difference.name not in ("retention.ms", "delete.retention.ms", "max.message.bytes"):
        return False
    declared, actual = int(difference.declared), int(difference.actual)
    return actual != -1 and (declared == -1 or declared > actual)  # -1 is no limit


def _raise_limits(client: Any, growing: dict[str, dict[str, str]]) -> None:
    answers = client.alter_configs([_resource(topic, limits) for topic, limits in growing.items()])
    for topic, answer in answers.get("topic", {}).items():
        if answer != "OK":
            raise CannotContinue(f"the broker refuses to raise the limits of topic {topic}: {answer}")


def _resource(topic: str, configs: dict[str, Any]) -> Any:
    from kafka.admin import ConfigResource, ConfigResourceType

    return ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)
