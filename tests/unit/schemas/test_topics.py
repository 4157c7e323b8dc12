"""The declared topology."""

from __future__ import annotations

import pytest

from schemas.topics import DAYS, DEAD_LETTERED, ERASURES, INTERACTIONS, MODEL_EVENTS, QUERIES, SERVING, TOPICS, Topic, dead_letter_topic, declared_names


def test_the_topics_are_these() -> None:
    users = "interactions queries drafts contexts lookups retrievals responses feedback outcomes trajectories profile-tasks profiles shadows"
    assert [topic.name for topic in TOPICS] == [*users.split(), "quality", "model-events", "serving", "erasures"]


@pytest.mark.parametrize("topic", [MODEL_EVENTS, SERVING, ERASURES], ids=lambda topic: topic.name)
def test_compacted_topics_keep_the_last_record_and_tombstones_for_a_week(topic: Topic) -> None:
    config = topic.config()
    assert config["cleanup.policy"] == "compact"
    assert int(config["delete.retention.ms"]) >= 7 * 86_400_000


def test_user_data_is_kept_forever_and_traffic_for_days() -> None:
    assert INTERACTIONS.config()["retention.ms"] == "-1"
    assert QUERIES.config()["retention.ms"] == str(int(DAYS.total_seconds() * 1000))


def test_each_message_travels_on_one_topic() -> None:
    assert len({topic.message for topic in TOPICS}) == len(TOPICS)


def test_each_dead_lettered_topic_has_a_dead_letter_topic() -> None:
    assert set(DEAD_LETTERED) <= set(TOPICS)
    assert "model-events-dlt" not in declared_names(), "no process writes it"
    assert dead_letter_topic("queries") == "queries-dlt"
