"""The command: its own addresses and state directory, and folders that it does not remove."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import CannotContinue
from infra.local.stack_record import stack_lock
from infra.settings import load
from infra.settings.stream import KafkaSettings
from lab.chaos.command import fresh_state, own_settings


def test_a_run_uses_no_configured_broker_base_model_index_or_registry(tmp_path: Path) -> None:
    kafka = {"bootstrap_servers": "prod:9092", "topic_prefix": "team.", "group_prefix": "team.", "partitions": 7}
    login = {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "ada", "sasl_password": "secret"}
    configured = load(kafka=kafka | login, base={"url": "http://prod/v1"}, index={"url": "http://prod"}, registry={"tracking_uri": "http://prod"})
    own = own_settings(configured, tmp_path)
    assert (own.kafka.bootstrap_servers, own.base.url, own.index.url, own.registry.tracking_uri) == (None, None, None, None)
    assert own.kafka == KafkaSettings(partitions=7)
    assert own.stack.dir == tmp_path


def test_the_state_of_an_earlier_run_is_removed(tmp_path: Path) -> None:
    (fresh_state(tmp_path) / "left-over").touch()
    assert not (fresh_state(tmp_path) / "left-over").exists()


def test_a_state_directory_of_other_origin_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "thesis.tex").touch()
    with pytest.raises(CannotContinue, match="move it away"):
        fresh_state(tmp_path)
    assert (tmp_path / "state" / "thesis.tex").exists()


def test_the_state_of_a_running_stack_is_left_alone(tmp_path: Path) -> None:
    lock = stack_lock(fresh_state(tmp_path))
    lock.acquire()
    try:
        with pytest.raises(CannotContinue, match="a stack runs in"):
            fresh_state(tmp_path)
    finally:
        lock.release()
