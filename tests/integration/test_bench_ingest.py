"""`retouch bench ingest --quick`: every step works. The figures mean nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1_500), pytest.mark.long("loads the embedder several times, and embeds for a minute or two")]

COMMAND = [sys.executable, "-m", "cli.app", "bench", "ingest", "--quick"]
START_S, END_S = 240.0, 60.0


def test_every_step_of_the_benchmark_gives_figures(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "--json", "--out", str(tmp_path)], capture_output=True, text=True, timeout=1_400, check=False)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads((tmp_path / "ingest.json").read_text())
    assert report == json.loads(done.stdout)
    assert {"default"} < {arm["arm"] for arm in report["arms"]}
    assert all(arm["stream"]["per_s"] > 0 and arm["engine"]["per_s"] > 0 and arm["stream"]["peak_mb"] > 0 for arm in report["arms"])
    assert report["peer"]["per_s"] > 0 and report["vectors_given"]["bare_index"]["per_s"] > 0
    assert all(target["measured"] is not None for target in report["targets"])
    assert (tmp_path / "ingest.png").stat().st_size > 10_000


def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen([*COMMAND, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    try:
        tree = psutil.Process(process.pid)
        log = tmp_path / "logs" / "engine-default-0.log"
        deadline = time.monotonic() + START_S
        while not log.exists():
            assert process.poll() is None and time.monotonic() < deadline, "the first engine did not start"
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
