"""Compares the topics on the broker with the declared ones of `schemas.topics`, and creates those that are missing.

Existing topics keep their partitions (more partitions would move users and break their order), their cleanup policy and their timestamp type; limits are
only raised. `describe_topology` shows the remaining differences and what they do (`infra.kafka.topic_settings`), for a person to decide.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from infra.errors import CannotContinue
from infra.kafka.clients import admin
from infra.kafka.declared_topics import DeclaredTopic, declared_topics, looks_like_ours
from infra.kafka.errors import broker_errors
from infra.kafka.names import KafkaNames
from infra.kafka.refusals import lacks
from infra.kafka.rights import Operation, Resource, Right
from infra.kafka.topic_settings import COMPARED, Difference, Severity, compare
from infra.settings import Settings
from schemas.topics import JOIN_STATE_CHANGELOG, RESPONSES

TIMEOUT_MS = 15_000


class Visibility(StrEnum):
    """What the broker shows this user of a topic."""

    FULL = "full"
    WITHOUT_SETTINGS = "without settings"  # the right DESCRIBE_CONFIGS is missing
    NONE = "none"  # the right DESCRIBE is missing, so whether the topic exists is not known


@dataclass(frozen=True)
class TopicState:
    """A declared topic, and its differences on the broker as far as the broker shows them."""

    name: str
    exists: bool
    partitions: int  # 0 if it does not exist
    differences: tuple[Difference, ...]
    visibility: Visibility = Visibility.FULL

    @property
    def as_declared(self) -> bool:
        return self.exists and not self.differences and self.visibility is Visibility.FULL

    @property
    def keeps_records(self) -> bool:
        """Whether the topic exists and no difference loses or refuses records. False if the broker does not show it."""
        return self.exists and not any(difference.is_harmful for difference in self.differences) and self.visibility is Visibility.FULL


@dataclass(frozen=True)
class TopologyComparison:
    """The declared topics compared with the broker's. `undeclared` names topics that look like ours and are not declared; they count as no difference."""

    topics: tuple[TopicState, ...]
    undeclared: tuple[str, ...]

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
    """Result of `apply_topology`, with the broker's names: created topics, and `topic setting` for each raised limit.

    `not_compared`: existing topics whose settings the broker does not show this user. Their limits are not raised.
    """

    created: tuple[str, ...]
    raised: tuple[str, ...]
    not_compared: tuple[str, ...] = ()


def apply_topology(settings: Settings) -> AppliedTopology:
    """Create missing topics and raise limits. Idempotent. Blocks until new topics have leaders.

    Raises CannotContinue if the broker does not answer or refuses; a right that is missing for one topic keeps no other from being created.
    """
    with connected(settings) as client:
        before = compare_topics(client, settings)
        created = _create(client, settings, before)
        limits = _limits_to_raise(before)
        if limits:
            _raise_limits(client, settings, limits)
            deadline = time.monotonic() + TIMEOUT_MS / 1000
            while _limits_to_raise(compare_topics(client, settings)) and time.monotonic() < deadline:  # they take effect a moment later
                time.sleep(0.05)
    on_broker = KafkaNames(settings.kafka).topic
    raised = tuple(f"{on_broker(topic)} {name}" for topic, names in limits.items() for name in names)
    not_compared = (on_broker(topic.name) for topic in before.topics if topic.visibility is Visibility.WITHOUT_SETTINGS)
    return AppliedTopology(tuple(map(on_broker, created)), raised, tuple(not_compared))


def describe_topology(settings: Settings) -> TopologyComparison:
    """Compare the declared topics with the broker's, whose names the result has. Raises CannotContinue if the broker does not answer."""
    on_broker = KafkaNames(settings.kafka).topic
    with connected(settings) as client:
        comparison = compare_topics(client, settings)
    topics = tuple(replace(topic, name=on_broker(topic.name)) for topic in comparison.topics)
    return TopologyComparison(topics, tuple(map(on_broker, comparison.undeclared)))


@contextmanager
def connected(settings: Settings) -> Iterator[Any]:
    with broker_errors(settings, CannotContinue):
        client = admin(settings)
        try:
            yield client
        finally:
            client.close()


def compare_topics(client: Any, settings: Settings, topics: Collection[str] = ()) -> TopologyComparison:
    """All declared topics, or those of `topics`."""
    present = {topic["name"]: topic for topic in client.describe_topics() if topic["error_code"] == 0}
    joined = present.get(RESPONSES.name)
    declared = declared_topics(settings, len(joined["partitions"]) if joined else settings.kafka.partitions)
    chosen = tuple(topic for topic in declared if not topics or topic.name in topics)
    hidden = _hidden(client, [topic.name for topic in chosen if topic.name not in present])
    resources = [_resource(topic.name, dict.fromkeys(COMPARED)) for topic in chosen if topic.name in present]
    configs = client.describe_configs(resources, config_filter="all").get("topic", {}) if resources else {}
    states = tuple(_state(topic, present.get(topic.name), configs.get(topic.name, {}), topic.name in hidden) for topic in chosen)
    ours = {topic.name for topic in declared}
    undeclared = (name for name in present if name not in ours and looks_like_ours(name))
    return TopologyComparison(states, tuple(sorted(undeclared)))


def _hidden(client: Any, topics: Collection[str]) -> set[str]:
    """Those of `topics` that the user may not describe. The broker does not list them among all topics."""
    from kafka.errors import TopicAuthorizationFailedError

    described = client.describe_topics(topics) if topics else []
    return {topic["name"] for topic in described if topic["error_code"] == TopicAuthorizationFailedError.errno}


def _state(topic: DeclaredTopic, description: dict[str, Any] | None, config: dict[str, Any], is_hidden: bool) -> TopicState:
    if description is None:
        return TopicState(topic.name, exists=False, partitions=0, differences=(), visibility=Visibility.NONE if is_hidden else Visibility.FULL)
    partitions = len(description["partitions"])
    replicas = min(len(p["replica_nodes"]) for p in description["partitions"])
    differences: list[Difference] = []
    if partitions != topic.partitions:
        effect = "an existing topic keeps its partitions, because users would move and lose their order"
        if topic.name == JOIN_STATE_CHANGELOG:
            effect = "the streams process needs as many as responses has: stop it and delete this topic, which drops pending joins"
        differences.append(Difference("partitions", str(topic.partitions), str(partitions), Severity.DIFFERS, effect))
    if replicas != topic.replication_factor:
        is_less = replicas < topic.replication_factor
        effect = f"records lie on {replicas} broker{'s' if replicas > 1 else ''}" + (", and are lost with fewer disks than declared" if is_less else "")
        severity = Severity.LOSES if is_less else Severity.DIFFERS
        differences.append(Difference("replication factor", str(topic.replication_factor), str(replicas), severity, effect))
    if config:
        differences += compare(topic.config, {name: entry["value"] for name, entry in config.items() if entry["value"] is not None}, replicas)
    visibility = Visibility.FULL if config else Visibility.WITHOUT_SETTINGS
    return TopicState(topic.name, exists=True, partitions=partitions, differences=tuple(differences), visibility=visibility)


def _create(client: Any, settings: Settings, before: TopologyComparison) -> list[str]:
    """Creates the missing topics and returns them. Raises CannotContinue for those that the broker refuses, after the others were created.

    Another process may create the same topics at the same moment, which is no error.
    """
    missing = [state.name for state in before.topics if not state.exists]
    if not missing:
        return []
    joined = next((state.partitions for state in before.topics if state.name == RESPONSES.name), 0)
    topics = [topic for topic in declared_topics(settings, joined or settings.kafka.partitions) if topic.name in missing]
    new = {t.name: {"num_partitions": t.partitions, "replication_factor": t.replication_factor, "configs": t.config} for t in topics}
    answers = {answer["name"]: answer for answer in client.create_topics(new, raise_errors=False)["topics"]}
    from kafka.errors import TopicAlreadyExistsError, TopicAuthorizationFailedError

    refused = [name for name in missing if answers[name]["error_code"] == TopicAuthorizationFailedError.errno]
    failed = [name for name in missing if answers[name]["error_code"] not in (0, TopicAlreadyExistsError.errno) and name not in refused]
    hidden = [state.name for state in before.topics if state.visibility is Visibility.NONE and state.name not in refused]
    created = [name for name in missing if answers[name]["error_code"] == 0]
    problems = [f"the broker refuses topic {KafkaNames(settings.kafka).topic(name)}: {answers[name]['error_message']}" for name in failed]
    if refused or hidden:
        rights = [topic_right(settings, name, Operation.CREATE) for name in refused] + [topic_right(settings, name, Operation.DESCRIBE) for name in hidden]
        problems.append(lacks(settings.kafka, rights))
    if problems:
        raise CannotContinue(f"{len(created)} topics were created, others not: {'; '.join(problems)}")
    client.wait_for_topics(missing, timeout_ms=TIMEOUT_MS)
    return created


def topic_right(settings: Settings, topic: str, operation: Operation) -> Right:
    return Right(Resource.TOPIC, KafkaNames(settings.kafka).topic(topic), operation)


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
    """The client does not compare the names of settings first, which needs one more right."""
    answers = client.alter_configs([_resource(topic, values) for topic, values in limits.items()], raise_on_unknown=False).get("topic", {})
    failed = {topic: answer for topic, answer in answers.items() if answer != "OK"}
    refused = [topic for topic, answer in failed.items() if "TopicAuthorizationFailed" in answer]
    if refused:
        raise CannotContinue(f"limits are not raised: {lacks(settings.kafka, [topic_right(settings, topic, Operation.ALTER_CONFIGS) for topic in refused])}")
    for topic, answer in failed.items():
        raise CannotContinue(f"the broker refuses to raise the limits of topic {KafkaNames(settings.kafka).topic(topic)}: {answer}")


def _resource(topic: str, configs: dict[str, Any]) -> Any:
    from kafka.admin import ConfigResource, ConfigResourceType

    return ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)
