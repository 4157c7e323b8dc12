from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from tests.support.small_datasets import write_outputs_file


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _evaluate(task: str, golds: dict[str, Any], predictions: dict[str, Any], *options: str) -> tuple[int, str, str]:
    for name, answers in (("golds", golds), ("predictions", predictions)):
        write_outputs_file(Path(f"{name}.json"), task.replace("-", "_"), answers)
    result = CliRunner().invoke(app, ["evaluate", "--task", task, "--golds", "golds.json", "--predictions", "predictions.json", *options])
    return result.exit_code, result.stdout, result.stderr


def test_metrics_are_printed_with_all_their_digits() -> None:
    code, output, error = _evaluate("LaMP_3", {"1": "5", "2": "5", "3": "1"}, {"1": "5", "2": "bad", "3": "3.7"}, "--json")
    report = json.loads(output)
    assert (code, error) == (0, "")
    assert report == {
        "task": "LaMP_3",
        "questions": 3,
        "metrics": {"MAE": pytest.approx(6.7 / 3, abs=1e-6), "RMSE": pytest.approx((23.29 / 3) ** 0.5, abs=1e-6)},
        "unknown_golds": 0,
        "unknown_predictions": 0,
    }
    code, output, _ = _evaluate("LaMP-3", {"1": "5", "2": "5", "3": "1"}, {"1": "5", "2": "bad", "3": "3.7"})
    assert code == 0 and repr(report["metrics"]["RMSE"]) in output and "lower is better" in output


def test_the_table_says_what_rouge_is() -> None:
    code, output, _ = _evaluate("LaMP-5", {"1": "On graphs"}, {"1": "On graphs"})
    assert code == 0 and ["rouge-1", "1.0"] in [line.split() for line in output.splitlines()] and "plain mean" in output


def test_golds_that_are_no_movie_tags_are_a_warning_beside_the_official_figures() -> None:
    code, output, error = _evaluate("LaMP_2", {"1": "sports"}, {"1": "crime"}, "--json")
    assert (code, json.loads(output)["metrics"]) == (0, {"accuracy": 1.0, "f1": 0.0})
    assert error.startswith("retouch: 1 of 1 of the golds are none of LaMP-2's 15 movie tags") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("task", "predictions", "message"),
    [
        ("LaMP_2N", {"1": "5"}, "retouch: task='LaMP_2N': no such task; expected one of LaMP_2, LaMP_3, LaMP_4, LaMP_5, LaMP_7, GOQA\n"),
        ("LaMP_3", {"2": "5"}, "retouch: predictions.json: the ids are not those of golds.json: golds without a prediction (1): '1'; predictions without"),
        ("LaMP_3", {"1": "nan"}, "retouch: predictions.json:1: golds[0] (id '1'): field 'output' is no finite number in float32"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line_and_exit_code_2(task: str, predictions: dict[str, Any], message: str) -> None:
    code, output, error = _evaluate(task, {"1": "5"}, predictions)
    assert (code, output, error.count("\n")) == (2, "", 1)
    assert error.startswith(message)


def test_a_missing_file_is_named() -> None:
    result = CliRunner().invoke(app, ["evaluate", "--task", "LaMP_3", "--golds", "gone.json", "--predictions", "gone.json"])
    assert (result.exit_code, result.stderr) == (2, "retouch: gone.json: cannot be read: No such file or directory\n")
