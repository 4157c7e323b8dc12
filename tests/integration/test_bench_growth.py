"""`retouch bench growth` with few items: every step works, and a stop leaves neither a process nor the index. The figures mean nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.long("fills an index several times"), pytest.mark.timeout(600)]

COMMAND = [sys.executable, "-m", "cli.app", "bench", "growth"]
START_S, END_S = 120.0, 60.0


def test_every_size_and_every_reopening_gives_figures(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "--items", "10000", "--json", "--out", str(tmp_path)], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads((tmp_path / "growth.json").read_text())
    assert report == json.loads(done.stdout)
    assert [size["size"] for size in report["sizes"]] == [each["size"] for each in report["reopened"]] == [100, 1_000, 10_000]
    assert all(size["cpu_ms_per_event"] > 0 and size["average"]["cpu_ms"] > 0 and size["heavy"]["cpu_ms"] > 0 for size in report["sizes"])
    disk = [size["disk_bytes"] for size in report["sizes"]]
    assert 0 < disk[0] < disk[1] < disk[2]
    assert all(target["measured"] is not None for target in report["targets"])
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"growth.json", "growth.png", "logs"}


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_process_and_no_index(signum: signal.Signals, code: int, tmp_path: Path) -> None:
    process = subprocess.Popen([*COMMAND, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    try:
        tree = psutil.Process(process.pid)
        deadline = time.monotonic() + START_S
        while not list(tmp_path.glob("growth-*/index/shard")):
            assert process.poll() is None and time.monotonic() < deadline, "the index was not opened"
            time.sleep(0.1)
        children = tree.children(recursive=True)
        assert children
        process.send_signal(signum)
        assert process.wait(END_S) == code
        _, alive = psutil.wait_procs(children, timeout=END_S)
        assert alive == []
        assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    finally:
        process.kill()
        process.communicate()
