"""Small runs of `retouch bench train`: every step works. The figures mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.train import arms
from cli.app import app

pytestmark = [pytest.mark.timeout(600), pytest.mark.long("trains every kind of arm once")]


def bench(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["bench", "train", "--quick", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr


def test_arms_with_a_common_start_are_measured_and_reported(tmp_path: Path) -> None:
    code, progress = bench("--out", str(tmp_path), "--arms", f"{arms.RAG_BASE},{arms.RL_MIXED}")
    report = json.loads((tmp_path / "train.json").read_text())
    measurement = report["measurements"]["plain"]
    assert (code, report["kind"], report["targets"]) == (0, "retouch.bench-train.v1", [])  # targets need all arms
    assert {*measurement["arms"]} == {arms.RAG_BASE, arms.SFT_MIXED, arms.RL_MIXED}
    assert [len(measurement["arms"][name]["steps"]) for name in (arms.SFT_MIXED, arms.RL_MIXED)] == [0, report["plan"]["rl_steps"]]
    assert measurement["answerers"]["blind"]["overall"] <= measurement["answerers"]["ideal"]["overall"]
    assert [steps for steps, _ in measurement["arms"][arms.RL_MIXED]["curve"]] == [0, 1, 2]
    assert f"bench train: {arms.RL_MIXED}: rl" in progress
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.json", "train.md", "train.png"]  # no checkpoint is left


def test_a_regime_compares_rl_with_the_best_of_several_sft_runs(tmp_path: Path) -> None:
    code, _ = bench("--out", str(tmp_path), "--regime", "few-60", "--jobs", "1")
    measurement = json.loads((tmp_path / "train.json").read_text())["measurements"]["few-60"]
    assert code == 0 and {*measurement["arms"]} == {"sft_mixed_2", "sft_mixed_4", "rl_from_best_sft"}
    first = measurement["differences"][0]
    assert first["after"].startswith("rl_from_best_sft@") and first["before"].startswith("sft_mixed_")


def test_real_authors_texts_also_have_differences_by_metric(tmp_path: Path) -> None:
    row = '{{"user_id": "a{0}", "paper_id": "{0}-{1}", "date": "2001-01-0{2}", "title": "A Title of {1}", "abstract": "the abstract of {1} by {0}"}}\n'
    (tmp_path / "papers.jsonl").write_text("".join(row.format(author, number, number + 1) for author in range(40) for number in range(5)))
    code, _ = bench("--out", str(tmp_path / "out"), "--data", str(tmp_path / "papers.jsonl"), "--arms", arms.SFT_MIXED)
    report = json.loads((tmp_path / "out" / "train.json").read_text())
    measurement = report["measurements"]["real"]
    assert code == 0 and measurement["counts"]["heldout_users"] >= 10
    (difference,) = measurement["differences"]
    assert {*difference["metrics"]} == {"rouge_1", "rouge_l"} and "blind" not in measurement["answerers"]
