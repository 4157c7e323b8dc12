"""`retouch bench query --quick`: every step works. The figures mean nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1_200), pytest.mark.long("starts eleven processes one after another, and asks for half a minute")]

COMMAND = [sys.executable, "-m", "cli.app", "bench", "query", "--quick"]
START_S, END_S = 240.0, 90.0


def test_every_step_of_the_benchmark_gives_figures(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "--json", "--out", str(tmp_path)], capture_output=True, text=True, timeout=1_100, check=False)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads((tmp_path / "query.json").read_text())
    assert report == json.loads(done.stdout)
    assert report["bare_index"]["points"] == report["points"] == report["fill"]["to"]
    for arm in ("restarted", "idle", "loaded"):
        assert report[arm]["sent"] > 0 and report[arm]["lost"] == report[arm]["without_items"] == 0
    assert report["loaded"]["history"]["events"] > 0
    assert [arm["commit_every_ms"] for arm in report["pipeline"]] == [50, 5]
    assert all(arm["asked"] > 0 and arm["lost"] == 0 and all(arm["hops_ms"].values()) for arm in report["pipeline"])
    assert all(target["measured"] is not None for target in report["targets"])
    assert (tmp_path / "query.png").stat().st_size > 10_000


def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen([*COMMAND, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    try:
        tree = psutil.Process(process.pid)
        log = tmp_path / "logs" / "streams.log"
        deadline = time.monotonic() + START_S
        while not log.exists():
            assert process.poll() is None and time.monotonic() < deadline, "the streams process did not start"
            time.sleep(0.1)
        children = tree.children(recursive=True)
        assert children
        process.send_signal(signal.SIGINT)
        assert process.wait(END_S) == 130
        _, alive = psutil.wait_procs(children, timeout=END_S)
        assert alive == []
    finally:
        process.kill()
        process.communicate()
