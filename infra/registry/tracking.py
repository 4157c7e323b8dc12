"""Tracked runs: the MLflow run of a training run, with its parameters and data from the start and its metrics by step while it goes.

A tracked run is found again by its key, so a process that takes up another's work goes on with the same one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from infra.registry.lineage import DatasetLineage
from infra.registry.mlflow_store import Store, mlflow, store_errors

T = TypeVar("T")

#: The tag that a tracked run is found by.
KEY = "retouch.run_id"
#: MLflow's own limits: characters of a data set's digest (the whole digest stands in the version's tag), metrics and parameters of one request.
_DIGEST_CHARS, _METRICS, _PARAMS = 36, 1000, 100


class MetricValue(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    step: int


class Tracking:
    """The runs of one experiment. From any method: RetryLater when the store does not answer, CannotContinue when it refuses."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(self, key: str | None, params: Mapping[str, object], dataset: DatasetLineage | None) -> str:
        """MLflow's id of the run of `key`; a new one where there is none, and where the key is None. Repeating it changes nothing, nor do other values."""
        with store_errors():
            entities, client, experiment = mlflow().entities, self._store.client, self._store.experiment_id
            found = client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1) if key else []
            tracked: str = (found[0] if found else client.create_run(experiment, tags={KEY: key} if key else {}, run_name=key)).info.run_id
            known = found[0].data.params if found else {}
            for some in _slices([(name, value) for name, value in params.items() if name not in known], _PARAMS):
                client.log_batch(tracked, params=[entities.Param(name, str(value)) for name, value in some])
            if dataset:
                lineage = entities.Dataset(dataset.name, dataset.digest[:_DIGEST_CHARS], "kafka", dataset.to_json())
                client.log_inputs(tracked, [entities.DatasetInput(lineage, [entities.InputTag("mlflow.data.context", "training")])])
        return tracked

    def log(self, tracked: str, points: Sequence[MetricValue], model_id: str | None = None) -> None:
        """Add values, of the run and of its model where one is named; MLflow keeps every one, also of a step that has one already."""
        metric, now = mlflow().entities.Metric, time.time_ns() // 1_000_000
        with store_errors():
            for some in _slices(points, _METRICS):
                metrics = [metric(point.name, point.value, now, point.step, model_id=model_id) for point in some]
                self._store.client.log_batch(tracked, metrics=metrics)

    def steps(self, tracked: str, name: str) -> Sequence[int]:
        """The steps that a metric has values of."""
        with store_errors():
            return [metric.step for metric in self._store.client.get_metric_history(tracked, name)]

    def end(self, tracked: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        with store_errors():
            self._store.client.set_terminated(tracked, status)


def _slices(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
