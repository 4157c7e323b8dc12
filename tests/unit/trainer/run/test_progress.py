from collections.abc import Sequence
from pathlib import Path

from infra.errors import RetryLater
from infra.registry.tracking import MetricValue
from infra.settings import load
from schemas.run_report import RlStep, StageProgress
from trainer.learn.sft import SftStep
from trainer.run.progress import StepReporter
from trainer.run.report import RunReportFile


class MemoryMetricStore:
    """A metric store in memory that can be unavailable."""

    def __init__(self) -> None:
        self.points: list[MetricValue] = []
        self.is_unavailable = False

    def log(self, tracked: str, points: Sequence[MetricValue]) -> None:
        if self.is_unavailable:
            raise RetryLater("the model registry does not answer")
        self.points += points

    def steps(self, tracked: str, name: str) -> list[int]:
        return [point.step for point in self.points if point.name == name]


def step(number: int) -> RlStep:
    return RlStep(number, 0, 2, 2.0, 0.5, 1.0, 0.5, 0.1, 0.2, 9.0, 0.0, 2.0)


def begin(tmp_path: Path, store: MemoryMetricStore, flush_s: float = 1e9) -> tuple[StepReporter, RunReportFile]:
    report = RunReportFile.begin(load(stack={"dir": tmp_path}))
    return StepReporter(report, store, "run", flush_s), report


def test_steps_reach_the_report_with_the_remaining_time(tmp_path: Path) -> None:
    progress, report = begin(tmp_path, MemoryMetricStore())
    with report.stage("sft"):
        progress.sft(SftStep(1, 10, 3.0))
        assert report.data.progress == StageProgress(step=1, of=10, loss=3.0)
        progress.sft(SftStep(2, 10, 2.0, seconds=0.5))
        assert report.data.progress and report.data.progress.eta_s == 4.0
    with report.stage("rl"):
        progress.rl(step(0), 6)
        progress.rl(step(1), 6)
        shown = report.data.progress
    assert shown and (shown.step, shown.of, shown.eta_s, shown.k, shown.reward) == (2, 6, 8.0, 2, 0.5)
    assert [point.step for point in report.data.reward_curve] == [0, 1]


def test_metrics_are_sent_in_batches_and_an_unavailable_store_loses_none(tmp_path: Path) -> None:
    store = MemoryMetricStore()
    patient, report = begin(tmp_path, store)
    with report.stage("rl"):
        patient.rl(step(0), 3)
    assert store.points == []

    eager, report = begin(tmp_path, store, flush_s=0.0)
    with report.stage("rl"):
        store.is_unavailable = True
        eager.rl(step(0), 3)
        store.is_unavailable = False
        eager.rl(step(1), 3)
    assert store.steps("run", "rl/reward") == store.steps("run", "rl/k") == [0, 1]


def test_repeated_steps_replace_the_curve_and_reach_mlflow_once(tmp_path: Path) -> None:
    store = MemoryMetricStore()
    for _ in range(2):
        progress, report = begin(tmp_path, store)
        with report.stage("rl"):
            for number in range(3):
                progress.rl(step(number), 5)
        progress.flush()
    with report.stage("rl"):
        progress.rl(step(3), 5)
    progress.flush()
    assert store.steps("run", "rl/loss") == [0, 1, 2, 3]
    assert [point.step for point in report.data.reward_curve] == [0, 1, 2, 3]
