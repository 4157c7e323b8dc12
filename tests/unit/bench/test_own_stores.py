"""Commands with a stack of their own refuse stores of others."""

from __future__ import annotations

import pytest

from bench.own_stores import check_own_stores
from infra.errors import BadSetting
from infra.settings import Settings


def test_brokers_indexes_and_registries_of_others_are_refused() -> None:
    settings = Settings().changed(registry={"tracking_uri": "https://mlflow.example"}, kafka={"bootstrap_servers": "kafka:9092"})
    with pytest.raises(
        BadSetting, match=r"kafka\.bootstrap_servers \(KAFKA_BOOTSTRAP_SERVERS\), registry\.tracking_uri \(MLFLOW_TRACKING_URI\): must not be set"
    ):
        check_own_stores(settings)
    with pytest.raises(BadSetting, match=r"index\.url \(QDRANT_URL\): must not be set"):
        check_own_stores(Settings().changed(index={"url": "http://qdrant:6333"}))
    check_own_stores(Settings())
