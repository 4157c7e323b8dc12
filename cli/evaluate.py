"""`retouch evaluate`: LaMP's official metrics of a file of predictions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from infra.process.command_output import OK, USAGE, show, show_error, show_json, show_table
from schemas.lamp_metrics import OfficialTask
from traffic.datasets.files import DataFile
from traffic.datasets.lamp_outputs import Evaluation, LampOutputs, official_task
from traffic.datasets.lamp_outputs import evaluate as measure

_LOWER_IS_BETTER = frozenset({"MAE", "RMSE"})


def evaluate(task: str, golds: Path, predictions: Path, as_json: bool) -> int:
    """Print the metrics. Returns the exit code. Raises BadData for malformed files."""
    known = official_task(task)
    if known is None:
        show_error(f"task={ascii(task)[:40]}: no such task; expected one of {', '.join(OfficialTask)}")
        return USAGE
    evaluation = measure(known, LampOutputs(DataFile(golds)), LampOutputs(DataFile(predictions)))
    if evaluation.unknown_golds:
        tags = "of the golds are none of LaMP-2's 15 movie tags (news categories are an older task); an unknown prediction of them counts as right in accuracy"
        show_error(f"{evaluation.unknown_golds} of {evaluation.questions} {tags}")
    show_json(asdict(evaluation)) if as_json else _show(evaluation)
    return OK


def _show(evaluation: Evaluation) -> None:
    rows = [(f"{name} (lower is better)" if name in _LOWER_IS_BETTER else name, repr(value)) for name, value in evaluation.metrics.items()]
    show_table((f"{evaluation.task}, {evaluation.questions} questions", ""), rows)
    if evaluation.unknown_predictions:
        show(f"{evaluation.unknown_predictions} predictions are no label of the task")
    if "rouge-1" in evaluation.metrics:
        show("ROUGE is the plain mean; LaMP's script prints the median of 1,000 bootstrap means, which moves in the third decimal")
