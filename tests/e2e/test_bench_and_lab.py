"""The bench and lab commands in their short forms, as users run them. Their figures mean little; what must never happen is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUN_TIMEOUT_S = 1800

pytestmark = [pytest.mark.integration, pytest.mark.timeout(RUN_TIMEOUT_S + 60), pytest.mark.long("each command measures for minutes")]


def retouch(*arguments: str) -> int:
    """The exit code: 0 every target met, 1 one was missed, which a busy machine explains. The output goes to the test's own."""
    command = [sys.executable, "-c", "from cli import main; main()", *arguments]
    return subprocess.run(command, cwd=ROOT, timeout=RUN_TIMEOUT_S, check=False).returncode


def report_of(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def test_bench_swap_drops_and_mixes_no_answer(tmp_path: Path) -> None:
    assert retouch("bench", "swap", "--short", "--out", str(tmp_path)) in (0, 1)
    report = report_of(tmp_path, "swap")
    assert (report["dropped"], report["judged"]["mixed"], report["judged"]["wrong"]) == (0, 0, 0)


def test_bench_promotion_runs_every_scenario(tmp_path: Path) -> None:
    assert retouch("bench", "promotion", "--short", "--out", str(tmp_path)) in (0, 1)
    assert report_of(tmp_path, "promotion")["scenarios"]


def test_bench_workers_loses_and_repeats_nothing(tmp_path: Path) -> None:
    assert retouch("bench", "workers", "--quick", "--out", str(tmp_path)) in (0, 1)
    assert report_of(tmp_path, "workers")


def test_lab_promotion_finds_no_anomaly_at_any_boundary(tmp_path: Path) -> None:
    assert retouch("lab", "promotion", "--kills", "104", "--live", "0", "--out", str(tmp_path)) == 0


def test_lab_simulate_finds_no_failing_seed() -> None:
    assert retouch("lab", "simulate", "--seeds", "500") == 0


def test_bench_quality_measures_online_quality() -> None:
    command = [sys.executable, "-m", "bench.online_quality.cost", "--size", "2000"]
    assert subprocess.run(command, cwd=ROOT, timeout=RUN_TIMEOUT_S, check=False).returncode == 0
