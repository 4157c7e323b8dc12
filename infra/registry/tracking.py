"""Tracked runs: the MLflow run of a training run, with its parameters, its data, and its metrics by step.

A tracked run is found by its key, so a resumed training run continues the same one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from infra.registry.mlflow_store import MlflowStore, mlflow, store_errors
from infra.registry.version_tags import DatasetLineage

T = TypeVar("T")

#: The tag with the key of a tracked run.
KEY = "retouch.run_id"
#: MLflow's limits: characters of a data set's digest (the version's tag has the whole digest), metrics and parameters of one request.
_DIGEST_CHARS, _METRICS, _PARAMS = 36, 1000, 100


class MetricValue(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    step: int


class Tracking:
    """The runs of one experiment. Every method raises RetryLater if the store does not respond, CannotContinue if it refuses."""

    def __init__(self, store: MlflowStore) -> None:
        self._store = store

    def begin(self, key: str | None, params: Mapping[str, object], dataset: DatasetLineage | None) -> str:
        """MLflow's id of the run with `key`; creates a new run if there is none, or if the key is None. Repeating the call changes nothing."""
        with store_errors():
            entities, client, experiment = mlflow().entities, self._store.client, self._store.experiment_id
            runs = client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1) if key else []
            tracked: str = (runs[0] if runs else client.create_run(experiment, tags={KEY: key} if key else {}, run_name=key)).info.run_id
            logged = runs[0].data.params if runs else {}
            for batch in _batches([(name, value) for name, value in params.items() if name not in logged], _PARAMS):
                client.log_batch(tracked, params=[entities.Param(name, str(value)) for name, value in batch])
            if dataset:
                lineage = entities.Dataset(dataset.name, dataset.digest[:_DIGEST_CHARS], "kafka", dataset.to_json())
                client.log_inputs(tracked, [entities.DatasetInput(lineage, [entities.InputTag("mlflow.data.context", "training")])])
        return tracked

    def log(self, tracked: str, values: Sequence[MetricValue], model_id: str | None = None) -> None:
        """Add metric values to the run, and to its model if `model_id` is given. MLflow keeps all values, also several of one step."""
        metric, now = mlflow().entities.Metric, time.time_ns() // 1_000_000
        with store_errors():
            for batch in _batches(values, _METRICS):
                metrics = [metric(value.name, value.value, now, value.step, model_id=model_id) for value in batch]
                self._store.client.log_batch(tracked, metrics=metrics)

    def steps(self, tracked: str, name: str) -> Sequence[int]:
        """The steps for which a metric has values."""
        with store_errors():
            return [metric.step for metric in self._store.client.get_metric_history(tracked, name)]

    def end(self, tracked: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        with store_errors():
            self._store.client.set_terminated(tracked, status)


def _batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
