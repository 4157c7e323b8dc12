"""Compares the topics on the broker with the declared ones of `schemas.topics`, and creates those that are missing.

Existing topics keep their partitions (more partitions would move users and break their order), their cleanup policy and their timestamp type; limits are
only raised. `describe_topology` shows the remaining differences and what they do (`infra.kafka.topic_settings`), for a person to decide.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from infra.errors import CannotContinue, RetouchError
from infra.kafka.clients import admin
from infra.kafka.errors import broker_errors
from infra.kafka.names import KafkaNames
from infra.kafka.topic_settings import COMPARED, Difference, Severity, compare, durability
from infra.settings import Settings
from schemas.topics import (
    DEAD_LETTER_SUFFIX,
    DEAD_LETTERED,
    FOREVER,
    JOIN_STATE_CHANGELOG,
    JOIN_STATE_CHANGELOG_BYTES,
    MAX_MESSAGE_BYTES,
    REDRIVEN,
    RESPONSES,
    TOPICS,
    Topic,
    dead_letter_topic,
    declared_names,
)

log = logging.getLogger(__name__)

#: Maximum size of the added dead-letter headers, for a record of the maximum size of its topic.
DEAD_LETTER_HEADER_BYTES = 65_536
TIMEOUT_MS = 15_000


@dataclass(frozen=True)
class DeclaredTopic:
    """A topic with its declared configuration."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


@dataclass(frozen=True)
class TopicState:
    """A declared topic, and its differences on the broker."""

    name: str
    exists: bool
    partitions: int  # 0 if it does not exist
    differences: tuple[Difference, ...]

    @property
    def as_declared(self) -> bool:
        return self.exists and not self.differences

    @property
    def keeps_records(self) -> bool:
        """Whether the topic exists and no difference loses or refuses records."""
        return self.exists and not any(difference.is_harmful for difference in self.differences)


@dataclass(frozen=True)
class TopologyComparison:
    """The declared topics compared with the broker's. `undeclared` names topics that look like ours and are not declared; they count as no difference."""

    topics: tuple[TopicState, ...]
    undeclared: tuple[str, ...]
    unread: frozenset[str] = frozenset()  # existing topics whose settings the broker does not show to this user

    @property
    def as_declared(self) -> bool:
        return all(topic.as_declared for topic in self.topics)

    @property
    def keeps_records(self) -> bool:
        return all(topic.keeps_records for topic in self.topics)

    def as_data(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "as_declared": self.as_declared,
            "keeps_records": self.keeps_records,
            "topics": [asdict(t) | {"as_declared": t.as_declared, "keeps_records": t.keeps_records} for t in self.topics],
            "undeclared": list(self.undeclared),
        }


@dataclass(frozen=True)
class AppliedTopology:
    """Result of `apply_topology`, with the broker's names: created topics, and `topic setting` for each raised limit."""

    created: tuple[str, ...]
    raised: tuple[str, ...]


def declared_topics(settings: Settings) -> tuple[DeclaredTopic, ...]:
    """All topics, then their dead-letter topics, then the topic of redrive records, with the partitions of new topics."""
    dead_letters = [Topic(dead_letter_topic(t.name), t.message, t.key, "the process that failed", "retouch dlq", FOREVER) for t in DEAD_LETTERED]
    replicas = settings.kafka.replication_factor
    ours = [DeclaredTopic(t.name, settings.kafka.partitions, replicas, _config(t) | durability(replicas)) for t in (*TOPICS, *dead_letters)]
    return (*ours, DeclaredTopic(REDRIVEN, 1, replicas, {"cleanup.policy": "compact"} | durability(replicas)))


def changelog(partitions: int, replication_factor: int) -> DeclaredTopic:
    """The changelog of the join state. The streams process creates it, and never `apply_topology`: it needs the partitions that `responses` has."""
    config = {"cleanup.policy": "compact", "retention.bytes": "-1", "max.message.bytes": str(JOIN_STATE_CHANGELOG_BYTES)}
    return DeclaredTopic(JOIN_STATE_CHANGELOG, partitions, replication_factor, config | durability(replication_factor))


def apply_topology(settings: Settings) -> AppliedTopology:
    """Create missing topics and raise limits. Idempotent. Blocks until new topics have leaders.

    Raises CannotContinue if the broker does not answer or refuses.
    """
    with _connected(settings) as client:
        before = _describe(client, settings)
        missing = [state.name for state in before.topics if not state.exists]
        if missing:
            _create(client, settings, [topic for topic in declared_topics(settings) if topic.name in missing])
        limits = _limits_to_raise(before)
        if limits:
            _raise_limits(client, settings, limits)
            deadline = time.monotonic() + TIMEOUT_MS / 1000
            while _limits_to_raise(_describe(client, settings)) and time.monotonic() < deadline:  # they take effect a moment later
                time.sleep(0.05)
        on_broker = KafkaNames(settings.kafka).topic
        return AppliedTopology(tuple(map(on_broker, missing)), tuple(f"{on_broker(topic)} {name}" for topic, names in limits.items() for name in names))


def describe_topology(settings: Settings) -> TopologyComparison:
    """Compare the declared topics with the broker's, whose names the result has. Raises CannotContinue if the broker does not answer."""
    on_broker = KafkaNames(settings.kafka).topic
    with _connected(settings) as client:
        comparison = _describe(client, settings)
    topics = tuple(replace(topic, name=on_broker(topic.name)) for topic in comparison.topics)
    return TopologyComparison(topics, tuple(map(on_broker, comparison.undeclared)))


def warn_of_losses(client: Any, settings: Settings, topics: Collection[str]) -> None:
    """Log one warning for each setting of these topics that loses or refuses records, or one line if the broker does not let this process read settings."""
    comparison = _compare(client, settings, topics)
    for state in comparison.topics:
        for difference in state.differences:
            if difference.is_harmful:
                fields = {"topic": state.name, "setting": difference.name, "value": difference.actual, "declared": difference.declared}
                log.warning("a topic's setting loses or refuses records", extra=fields | {"effect": difference.effect})
    if comparison.unread:
        reason = f"the broker does not show the settings of {', '.join(sorted(comparison.unread))}"
        log.warning("topics are not compared with their declaration", extra={"reason": reason})


def warn_of_losses_in_background(settings: Settings, topics: Collection[str]) -> None:
    """`warn_of_losses` in a thread of its own, for the start of a process: never fails and never delays the caller."""
    threading.Thread(target=_warn, args=(settings, topics), name="topic settings", daemon=True).start()


def _warn(settings: Settings, topics: Collection[str]) -> None:
    try:
        with _connected(settings) as client:
            warn_of_losses(client, settings, topics)
    except RetouchError as error:
        log.warning("topics are not compared with their declaration", extra={"reason": str(error)})
    except Exception as error:  # the outermost frame of this thread; the process works without the comparison
        log.warning("topics are not compared with their declaration", extra={"reason": type(error).__name__})


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


def _describe(client: Any, settings: Settings) -> TopologyComparison:
    """Raises CannotContinue if the broker does not show the settings of a topic."""
    comparison = _compare(client, settings)
    if comparison.unread:
        unread = ", ".join(map(KafkaNames(settings.kafka).topic, sorted(comparison.unread)))
        raise CannotContinue(f"the broker does not show the settings of {unread}: allow this user DescribeConfigs on topics")
    return comparison


def _compare(client: Any, settings: Settings, topics: Collection[str] = ()) -> TopologyComparison:
    """All declared topics, or those of `topics`."""
    present = {topic["name"]: topic for topic in client.describe_topics() if topic["error_code"] == 0}
    declared = declared_topics(settings)
    if JOIN_STATE_CHANGELOG in present:
        joined = present.get(RESPONSES.name, present[JOIN_STATE_CHANGELOG])
        declared = (*declared, changelog(len(joined["partitions"]), settings.kafka.replication_factor))
    ours = {topic.name for topic in declared}
    declared = tuple(topic for topic in declared if not topics or topic.name in topics)
    resources = [_resource(topic.name, dict.fromkeys(COMPARED)) for topic in declared if topic.name in present]
    configs = client.describe_configs(resources, config_filter="all").get("topic", {}) if resources else {}
    unread = frozenset(topic.name for topic in declared if topic.name in present and not configs.get(topic.name))
    states = tuple(_state(topic, present.get(topic.name), configs.get(topic.name, {})) for topic in declared)
    undeclared = (name for name in present if name not in ours and _looks_like_ours(name))
    return TopologyComparison(states, tuple(sorted(undeclared)), unread)


def _looks_like_ours(name: str) -> bool:
    return (name.startswith("retouch") or name.endswith(DEAD_LETTER_SUFFIX)) and not is_of_another_deployment(name)


def is_of_another_deployment(name: str) -> bool:
    """Whether this is a declared name with something before it, which is then another `kafka.topic_prefix`, which begins with ours."""
    return name not in (declared := declared_names()) and name.endswith(declared)


def _state(topic: DeclaredTopic, description: dict[str, Any] | None, config: dict[str, Any]) -> TopicState:
    if description is None:
        return TopicState(topic.name, exists=False, partitions=0, differences=())
    partitions = len(description["partitions"])
    replicas = min(len(p["replica_nodes"]) for p in description["partitions"])
    differences: list[Difference] = []
    if partitions != topic.partitions:
        effect = "an existing topic keeps its partitions, because users would move and lose their order"
        differences.append(Difference("partitions", str(topic.partitions), str(partitions), Severity.DIFFERS, effect))
    if replicas != topic.replication_factor:
        is_less = replicas < topic.replication_factor
        effect = f"records lie on {replicas} broker{'s' if replicas > 1 else ''}" + (", and are lost with fewer disks than declared" if is_less else "")
        severity = Severity.LOSES if is_less else Severity.DIFFERS
        differences.append(Difference("replication factor", str(topic.replication_factor), str(replicas), severity, effect))
    if config:
        differences += compare(topic.config, {name: entry["value"] for name, entry in config.items() if entry["value"] is not None}, replicas)
    return TopicState(topic.name, exists=True, partitions=partitions, differences=tuple(differences))


def _create(client: Any, settings: Settings, topics: list[DeclaredTopic]) -> None:
    """Another process may create the same topics at the same moment, which is no error."""
    new = {t.name: {"num_partitions": t.partitions, "replication_factor": t.replication_factor, "configs": t.config} for t in topics}
    response = client.create_topics(new, raise_errors=False)
    from kafka.errors import TopicAlreadyExistsError

    for result in response["topics"]:
        if result["error_code"] not in (0, TopicAlreadyExistsError.errno):
            raise CannotContinue(f"the broker refuses topic {KafkaNames(settings.kafka).topic(result['name'])}: {result['error_message']}")
    client.wait_for_topics([t.name for t in topics], timeout_ms=TIMEOUT_MS)


def _limits_to_raise(comparison: TopologyComparison) -> dict[str, dict[str, str]]:
    """By topic, the limits whose declared value keeps more than the actual one."""
    raised = {state.name: {d.name: d.declared for d in state.differences if _raises(d)} for state in comparison.topics}
    return {topic: limits for topic, limits in raised.items() if limits}


def _raises(difference: Difference) -> bool:
    if difference.name == "min.insync.replicas":
        return difference.severity is Severity.DIFFERS  # otherwise it exceeds the topic's replicas
    if difference.name not in ("retention.ms", "retention.bytes", "delete.retention.ms", "max.message.bytes"):
        return False
    declared, actual = int(difference.declared), int(difference.actual)
    return actual != -1 and (declared == -1 or declared > actual)  # -1 is no limit


def _raise_limits(client: Any, settings: Settings, limits: dict[str, dict[str, str]]) -> None:
    answers = client.alter_configs([_resource(topic, values) for topic, values in limits.items()])
    for topic, answer in answers.get("topic", {}).items():
        if answer != "OK":
            raise CannotContinue(f"the broker refuses to raise the limits of topic {KafkaNames(settings.kafka).topic(topic)}: {answer}")


def _resource(topic: str, configs: dict[str, Any]) -> Any:
    from kafka.admin import ConfigResource, ConfigResourceType

    return ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)
