"""The embedder alone: processes that only encode their share of the texts. `python -m bench.ingest.engine` is one of them.

Shares are equally long: each process takes every n-th text in the order of lengths. All begin together, once every model is loaded and warm.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pydantic import TypeAdapter

from bench.ingest.child import finished, shown
from bench.ingest.plan import EmbedderArm
from infra.errors import CannotContinue
from infra.process.child import Child
from infra.process.environment import environment
from infra.settings import Settings, load
from streams.embedding.embedder import Matrix
from streams.embedding.model import SentenceModel, cost

START_S, ENCODE_S, STOP_S = 120.0, 1_800.0, 10.0
POLL_S = 0.02
#: Texts that are encoded before the measurement: torch's first calls are slower.
WARMING = 64


@dataclass(frozen=True)
class Share:
    """The work of one process. It writes `directory/ready-NUMBER`, and begins when `directory/go` exists."""

    directory: Path
    number: int
    of: int

    @property
    def ready(self) -> Path:
        return self.directory / f"ready-{self.number}"

    @property
    def vectors(self) -> Path:
        return self.directory / f"vectors-{self.number}.npy"


@dataclass(frozen=True)
class Encoded:
    """What one process reports. Times in seconds since the epoch."""

    texts: int
    began_s: float
    ended_s: float
    cpu_s: float
    peak_bytes: int


SHARE, ENCODED = TypeAdapter(Share), TypeAdapter(Encoded)


def share_of(texts: Sequence[str], number: int, of: int) -> list[int]:
    """The positions of a share's texts, the shortest first."""
    return sorted(range(len(texts)), key=lambda n: cost(texts[n]))[number::of]


def measure(settings: Settings, arm: EmbedderArm, texts: Sequence[str], directory: Path, logs: Path) -> tuple[dict[str, Any], Matrix]:
    """The engine's own rate, and the vectors in the order of `texts`. Raises CannotContinue if a process fails."""
    directory.mkdir(parents=True)
    write_texts(directory, texts)
    with ExitStack() as stopping:
        shares = [Share(directory, number, arm.engines) for number in range(arm.engines)]
        children = [_child(settings, arm, share, logs) for share in shares]
        for child in children:
            child.start()
            stopping.callback(child.stop, STOP_S)
        _wait_ready(children, shares)
        (directory / "go").touch()
        reports = [ENCODED.validate_json(finished(child, ENCODE_S)) for child in children]
    vectors: Matrix | None = None
    for share in shares:
        rows = np.load(share.vectors)
        vectors = np.empty((len(texts), rows.shape[1]), dtype=np.float32) if vectors is None else vectors
        vectors[share_of(texts, share.number, share.of)] = rows
    assert vectors is not None
    return figures(reports), vectors


def figures(reports: Sequence[Encoded]) -> dict[str, Any]:
    """All texts, by the time from the first beginning to the last end."""
    texts = sum(report.texts for report in reports)
    seconds = max(report.ended_s for report in reports) - min(report.began_s for report in reports)
    return {
        "per_s": round(texts / seconds, 2),
        "cpu_ms_per_text": round(sum(report.cpu_s for report in reports) * 1000 / texts, 3),
        "peak_mb": round(sum(report.peak_bytes for report in reports) / 2**20),
    }


def write_texts(directory: Path, texts: Sequence[str]) -> None:
    (directory / "texts.json").write_bytes(TEXTS.dump_json(list(texts)))


def read_texts(directory: Path) -> list[str]:
    return TEXTS.validate_json((directory / "texts.json").read_bytes())


TEXTS = TypeAdapter(list[str])


def _child(settings: Settings, arm: EmbedderArm, share: Share, logs: Path) -> Child:
    name = f"engine-{arm.name}-{share.number}"
    command = [sys.executable, "-m", "bench.ingest.engine", SHARE.dump_json(share).decode()]
    return Child(name, command, logs / f"{name}.log", environment(settings.changed(embedder=arm.settings())), output=share.directory / f"{name}.json")


def _wait_ready(children: Sequence[Child], shares: Sequence[Share]) -> None:
    deadline = time.monotonic() + START_S
    for child, share in zip(children, shares, strict=True):
        while not share.ready.exists():
            if not child.is_running or time.monotonic() > deadline:
                raise CannotContinue(f"{child.name} did not load its model within {START_S:g} s; end of {child.log}:\n{child.last_lines()}")
            time.sleep(POLL_S)


def main() -> int:
    share = SHARE.validate_json(sys.argv[1])
    texts = read_texts(share.directory)
    mine = [texts[n] for n in share_of(texts, share.number, share.of)]
    model = SentenceModel(load().embedder)
    model.encode(mine[:: max(1, len(mine) // WARMING)])
    share.ready.touch()
    while not (share.directory / "go").exists():
        time.sleep(POLL_S)
    process = psutil.Process()
    before, began_s = process.cpu_times(), time.time()
    vectors = model.encode(mine)
    ended_s, after = time.time(), process.cpu_times()
    np.save(share.vectors, vectors)
    spent_s = after.user + after.system - before.user - before.system
    sys.stdout.write(shown(ENCODED, Encoded(len(mine), began_s, ended_s, spent_s, process.memory_info().rss)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
