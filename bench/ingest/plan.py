"""Sizes of a run of `retouch bench ingest`. `QUICK` only shows that every step works; its figures mean nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.machine import cores
from infra.checkpoints.precision import processor_has_bfloat16
from infra.settings.models import Dtype

#: The arm with which the best one is compared.
DEFAULT = "default"


@dataclass(frozen=True)
class IngestPlan:
    """Numbers of events. A rate is measured from `warm_share` of an arm's events to the last one."""

    texts: int = 4_000  # that each arm embeds
    warm_share: float = 0.2
    vectors: int = 120_000  # events of the run with vectors given
    early: tuple[int, int] = (10_000, 20_000)  # the index's sizes between which the first cost of an event is measured
    late: tuple[int, int] = (100_000, 120_000)  # and the last one
    events_per_user: int = 100


FULL = IngestPlan()
QUICK = IngestPlan(texts=400, vectors=6_000, early=(1_000, 3_000), late=(4_000, 6_000))


@dataclass(frozen=True)
class EmbedderArm:
    """One choice of `[embedder]`'s settings. `processes` 0: history is embedded in a thread of the streams process."""

    name: str
    processes: int
    dtype: Dtype

    @property
    def engines(self) -> int:
        """Number of copies of the model that embed history."""
        return max(1, self.processes)

    def settings(self) -> dict[str, Any]:
        return {"processes": self.processes, "threads": 1, "dtype": self.dtype}


def arms(count: int | None = None, *, has_bfloat16: bool | None = None) -> list[EmbedderArm]:
    """Without arguments: for the number of cores and the processor of this machine."""
    processes = count or cores()
    dtypes = [Dtype.FLOAT32, *([Dtype.BFLOAT16] if (processor_has_bfloat16() if has_bfloat16 is None else has_bfloat16) else [])]
    return list(_arms(processes, dtypes))


def _arms(processes: int, dtypes: list[Dtype]) -> Iterator[EmbedderArm]:
    for dtype in dtypes:
        suffix = "" if dtype is Dtype.FLOAT32 else f"-{dtype.value}"
        yield EmbedderArm(f"{DEFAULT if dtype is Dtype.FLOAT32 else 'thread'}{suffix}", 0, dtype)
        yield EmbedderArm(f"processes-{processes}{suffix}", processes, dtype)
