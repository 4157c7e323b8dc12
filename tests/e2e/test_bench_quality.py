"""`retouch bench quality` on the small world: every strategy answers every question once, and a second call asks nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900
#: None of them needs a training run.
ARMS = ["zero_shot", "rag", "icl", "pag", "rpm", "rag@random"]

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(2 * TIMEOUT_S + 60)]


def bench(out: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The report and the log of one call. Exit code 1: an ordering does not hold, which says nothing after so little training."""
    command = [sys.executable, "-c", "from cli import main; main()", "bench", "quality", "--quick", "--out", str(out), *arguments]
    ended = subprocess.run(command, cwd=ROOT, timeout=TIMEOUT_S, check=False, capture_output=True, text=True)
    assert ended.returncode in (0, 1), ended.stderr
    return json.loads((out / "quality.json").read_text()), ended.stderr


def test_every_strategy_answers_every_question_once_and_a_second_call_asks_nothing(tmp_path: Path) -> None:
    report, log = bench(tmp_path, "--strategies", ",".join(ARMS))
    assert log.count("start the processes") == 1 and "restart streams:" in log
    counts = report["counts"]
    assert counts["missing"] == {} and counts["questions"] > 20
    assert all(report["arms"][arm]["answered"] == counts["questions"] for arm in ARMS)
    personalized = {arm: report["arms"][arm]["statuses"].get("personalized", 0) for arm in ARMS}
    assert all(personalized[arm] > counts["questions"] / 2 for arm in ("rag", "icl")) and personalized["pag"] > 0 and personalized["rpm"] > 0
    answers = (tmp_path / "answers.jsonl").read_bytes()

    again, log = bench(tmp_path, "--strategies", ",".join(ARMS))
    assert "ask" not in log and "continuing the run" in log
    assert again["arms"] == report["arms"]
    assert (tmp_path / "answers.jsonl").read_bytes() == answers


@pytest.mark.long("it trains the reflection model twice and HYDRA")
def test_strategies_with_a_model_are_answered_by_their_own_versions(tmp_path: Path) -> None:
    report, _ = bench(tmp_path, "--strategies", "hydra,rpo,rpo:sft,rpo:given")
    versions, counts = report["models"]["versions"], report["counts"]
    assert versions.keys() == {"rpo", "sft", "given", "hydra"} and counts["missing"] == {}
    answered = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    by_arm = {arm: {answer["version"] for answer in answered if answer["arm"] == arm} for arm in ("rpo", "rpo:sft", "rpo:given", "hydra")}
    assert len({versions[name] for name in ("rpo", "sft", "given")}) == 3
    assert by_arm == {"rpo": {versions["rpo"]}, "rpo:sft": {versions["sft"]}, "rpo:given": {versions["given"]}, "hydra": {versions["hydra"]}}


def test_another_plan_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / ".retouch-state").touch()
    (tmp_path / "plan.json").write_text('{"seed": 7}')
    command = [sys.executable, "-c", "from cli import main; main()", "bench", "quality", "--quick", "--strategies", "rag", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, timeout=120, check=False, capture_output=True, text=True)
    assert ended.returncode == 1 and "another value of seed" in ended.stderr
