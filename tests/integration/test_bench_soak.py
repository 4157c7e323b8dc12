"""`retouch bench soak --quick --minutes 1`: every step works, and a stop leaves a report and no process. The figures mean nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.soak.lag import GROUPS
from schemas.topics import consumer_group

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1_800), pytest.mark.long("starts the whole stack twice, and loads it for two minutes")]

COMMAND = [sys.executable, "-m", "cli.app", "bench", "soak", "--quick", "--minutes", "1"]
START_S, END_S = 900.0, 120.0
#: A busy machine takes several times as long as usual.
ENV = os.environ | {"RETOUCH_STACK__START_TIMEOUT_S": "600"}
PROCESSES = {"broker", "base-endpoint", "streams", "base", "strategies", "profiles", "teacher", "reflection", "quality", "promoter"}


def test_every_step_of_the_soak_gives_figures(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "--json", "--out", str(tmp_path)], capture_output=True, text=True, timeout=1_500, check=False, env=ENV)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads((tmp_path / "soak.json").read_text())
    assert report == json.loads(done.stdout)
    assert report["ended_early"] is None and report["minutes"] == 1.0
    assert report["capacity"]["load_per_s"] == pytest.approx(0.7 * report["capacity"]["per_s"], abs=0.02)
    assert report["answers"]["asked"] > 0 and report["answers"]["lost"] == report["answers"]["repeated"] == 0
    assert set(report["processes"]) == PROCESSES
    assert report["processes"]["streams"]["items"] > 0
    assert {consumer_group(name) for name in ("streams", "base", "reflection", "teacher")} <= {lag["group"] for lag in report["lags"]} <= set(GROUPS)
    series = report["timeline"]
    assert len(series["at_s"]) >= 10
    assert all(len(values) == len(series["at_s"]) for name in ("pss_mb", "open_files", "threads", "lag") for values in series[name].values())
    assert all(target["measured"] is not None for target in report["targets"])
    assert (tmp_path / "soak.png").stat().st_size > 10_000


def test_a_terminated_soak_leaves_a_report_and_no_process(tmp_path: Path) -> None:
    errors = tmp_path / "stderr.txt"
    with errors.open("w") as stderr:
        process = subprocess.Popen([*COMMAND, "--out", str(tmp_path)], stderr=stderr, stdout=subprocess.DEVNULL, env=ENV)
    try:
        tree, answers = psutil.Process(process.pid), tmp_path / "state" / "soak.jsonl"
        deadline = time.monotonic() + START_S
        while not answers.exists() or "answered" not in answers.read_text():
            assert process.poll() is None and time.monotonic() < deadline, errors.read_text()
            time.sleep(0.5)
        children = tree.children(recursive=True)
        assert len(children) >= len(PROCESSES)
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_S) == 128 + signal.SIGTERM
        _, alive = psutil.wait_procs(children, timeout=END_S)
        assert alive == []
        report = json.loads((tmp_path / "soak.json").read_text())
        assert report["ended_early"] == "interrupted" and report["answers"]["answered"] > 0
    finally:
        process.kill()
        process.wait()
