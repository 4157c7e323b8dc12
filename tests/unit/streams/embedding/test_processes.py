from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.errors import RetryLater
from infra.settings.stream import EmbedderSettings
from streams.embedding.local import LocalEmbedder
from tests.support.tiny_embedder import TEXTS, make_contriever

#: Each process imports torch, at a low priority.
LONG = pytest.mark.long("starts processes that embed")
#: A bound for a busy machine: the processes have a low priority.
WAIT_S = 600.0
pytestmark = pytest.mark.timeout(2 * WAIT_S)
#: Of several steps, some of them equal.
HISTORY = [f"{text} {'film about ' * (number % 7)}" for number in range(30) for text in TEXTS]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_contriever(tmp_path_factory.mktemp("contriever"))


@pytest.fixture
def embedder(checkpoint: Path) -> Iterator[LocalEmbedder]:
    with closing(LocalEmbedder(settings(checkpoint, processes=2))) as opened:
        yield opened


def settings(checkpoint: Path, **values: Any) -> EmbedderSettings:
    return EmbedderSettings.model_validate({"model": str(checkpoint), "batch_size": 16, **values})


def children() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid]


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=LONG)])
async def test_history_has_the_vectors_of_queries_in_order(checkpoint: Path, processes: int) -> None:
    with closing(LocalEmbedder(settings(checkpoint, processes=processes))) as embedder:
        history = await embedder.embed(HISTORY)
        assert len(children()) == processes
        np.testing.assert_allclose(history, await embedder.embed(HISTORY, urgent=True), atol=1e-6)
    assert children() == []


@LONG
async def test_processes_that_died_are_started_again(embedder: LocalEmbedder) -> None:
    before = await embedder.embed(HISTORY)
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(RetryLater, match=r"a process of embedder\.processes ended"):
        await embedder.embed(HISTORY)
    np.testing.assert_allclose(await embedder.embed(HISTORY), before, atol=1e-6)


@LONG
@pytest.mark.parametrize(("signum", "whole_group"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)])
def test_a_stop_while_processes_import_is_quiet_and_ends_them(checkpoint: Path, signum: signal.Signals, whole_group: bool) -> None:
    code = f"""
import asyncio, multiprocessing, sys
from contextlib import closing
from infra.process.lifecycle import stop_on_signals
from infra.settings.stream import EmbedderSettings
from streams.embedding.local import LocalEmbedder

async def embed(embedder, stop):
    task = asyncio.ensure_future(embedder.embed(["sea", "war"]))
    await asyncio.sleep(0)
    while not multiprocessing.active_children():
        await asyncio.sleep(0.01)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    while not stop.is_set():
        await asyncio.sleep(0.01)
    task.cancel()

if __name__ == "__main__":
    stop = stop_on_signals()
    with closing(LocalEmbedder(EmbedderSettings(model={str(checkpoint)!r}, processes=2, batch_size=1))) as embedder:
        asyncio.run(embed(embedder, stop))
    print("ended", flush=True)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        deadline = time.monotonic() + WAIT_S
        while "libtorch" not in Path(f"/proc/{pids[0]}/maps").read_text():
            assert time.monotonic() < deadline, "no import of torch"
            time.sleep(0.005)
        (os.killpg if whole_group else os.kill)(parent.pid, signum)
        out, err = parent.communicate(timeout=WAIT_S)
    assert parent.returncode == 0 and out == "ended\n", err
    assert "Traceback" not in err, err
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline + WAIT_S, "processes that embed are left"
        time.sleep(0.05)


@LONG
def test_processes_end_with_a_parent_that_is_killed(checkpoint: Path) -> None:
    code = f"""
import asyncio, multiprocessing, time
from infra.settings.stream import EmbedderSettings
from streams.embedding.local import LocalEmbedder
if __name__ == "__main__":
    embedder = LocalEmbedder(EmbedderSettings(model={str(checkpoint)!r}, processes=1))
    asyncio.run(embedder.embed(["sea"]))
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            child = int(parent.stdout.readline())
        finally:
            parent.kill()
    deadline = time.monotonic() + WAIT_S
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline, f"process {child} outlives its parent"
        time.sleep(0.05)
