"""The report of one training run: `stack.dir/runs/<run id>/report.json`, rewritten while the run goes on, so it also tells how far it is.

The file is replaced whole. It names no user and quotes nobody. What is not known yet is absent or null:

    run_id, status, reason          status: running, trained, nothing_to_train, interrupted, failed, abandoned; reason: in words, at the end
    started_at, finished_at         UTC; of the run, over all processes that worked on it
    starts                          how many processes did so; a run that is running without a holder of the lease was killed
    kills, stored                   how many of the last were killed with no step stored beyond `stored`, the newest of each stage as the last one began
    stage, progress                 progress is {step, of, eta_s, and what the stage tells: loss; k, reward, kl, entropy, ...}, of the last step done
    seconds, peak_rss_bytes, peak_gpu_bytes     by stage: collect, load, sft, rl, save, evaluate, register
    seed, settings, start_from, parent, champion, tracked      what it trains from and with; tracked is its MLflow run
    triggers                        why it began: `trainer.run.triggers.Trigger`s, fired or not
    counts, judged_share, offset_ranges, dataset_digest, code_version, pinned   pinned: the snapshot is stored, a resumed run reads it and not the topics
    sft, sft_losses, reward_curve   one entry per RL step (`trainer.learn.rl_engine.RlStep`); a loss is the mean over ten steps
    evaluation, gate, decision      `trainer.judge.evaluate.Evaluation` with k; `trainer.judge.gate_result.GateResult`; {promote, reason}
    name, version, digest           what was registered
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from infra.registry.client import RegisteredVersion
from infra.settings import Settings
from trainer.data.snapshot import Snapshot, ranges_json
from trainer.folders import runs_dir
from trainer.learn import peak_memory
from trainer.learn.saved_state import write_json

log = logging.getLogger(__name__)

TRAINED, NOTHING_TO_TRAIN, INTERRUPTED, FAILED, RUNNING, ABANDONED = "trained", "nothing_to_train", "interrupted", "failed", "running", "abandoned"
#: Steps are told to the file at most this often.
EVERY_S = 1.0


@dataclass
class Report:
    """What is known of a run so far. `data` is what the file holds."""

    path: Path
    data: dict[str, Any] = field(default_factory=dict)
    _saved: float = 0.0
    _entered: tuple[str, float, float] = ("", 0.0, 0.0)  # the stage, when it was entered, and the seconds it had by then

    @classmethod
    def begin(cls, settings: Settings) -> Self:
        began = datetime.now(UTC)
        run_id = f"{began:%Y%m%dT%H%M%S%f}-{os.getpid()}"  # in the order of time
        directory = runs_dir(settings) / run_id
        directory.mkdir(parents=True)
        data = {
            "run_id": run_id,
            "status": RUNNING,
            "reason": None,
            "stage": None,
            "progress": None,
            "started_at": began.isoformat(),
            "finished_at": None,
            "starts": 1,
            "kills": 0,
            "stored": {},
            "seed": settings.trainer.seed,
            "settings": told_settings(settings),
            "start_from": settings.trainer.start_from,
            "seconds": {},
            "peak_rss_bytes": {},
            "peak_gpu_bytes": {},
        }
        return cls(directory / "report.json", data)

    @classmethod
    def read(cls, path: Path) -> Self:
        """A report as it stands on disk. Raises OSError, ValueError."""
        data = json.loads(path.read_text())
        if not isinstance(data, dict) or not {"run_id", "status", "settings", "seconds"} <= set(data):
            raise ValueError("not a report of a run")
        return cls(path, data)

    @property
    def run_id(self) -> str:
        return str(self.data["run_id"])

    @property
    def directory(self) -> Path:
        return self.path.parent

    @property
    def seconds(self) -> dict[str, float]:
        seconds: dict[str, float] = self.data["seconds"]
        return seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and watch its memory; the parts of one that is left and entered again add up.

        Raises OSError where it cannot be told that it begins; that it ends, the next to be written tells.
        """
        self._entered = (name, time.monotonic(), self.seconds.get(name, 0.0))
        peak_memory.reset()
        self.data |= {"stage": name, "progress": None}
        self.save()
        log.info("stage begins", extra={"run_id": self.run_id, "stage": name})
        try:
            yield
        finally:
            with suppress(OSError):  # a full disk must not stand in for what ended the stage
                self._measure()
                self.save()

    def tell_step(self, step: int, of: int, eta_s: float | None, figures: Mapping[str, Any]) -> None:
        """The last step of the stage. Costs microseconds, and once a second the writing of the file (12 ms with 500 steps, 2026-11-21)."""
        self.data["progress"] = {"step": step, "of": of, "eta_s": eta_s, **figures}
        if time.monotonic() - self._saved >= EVERY_S or step == of:
            self._measure()
            self.save()

    def tell_snapshot(self, snapshot: Snapshot, code_version: str) -> None:
        self.data |= {
            "counts": dict(snapshot.counts),
            "judged_share": snapshot.judged_share,
            "offset_ranges": ranges_json(snapshot.ranges),
            "dataset_digest": snapshot.digest,
            "code_version": code_version,
        }

    def tell_version(self, version: RegisteredVersion) -> None:
        self.data |= {"name": version.name, "version": version.version, "digest": version.digest, "parent": version.parent}

    def finish(self, status: str, reason: str) -> None:
        self.data |= {"status": status, "reason": reason, "stage": None, "progress": None, "finished_at": datetime.now(UTC).isoformat()}
        self.save()

    def save(self) -> None:
        """Write whole or not at all, and outlive the machine's power: without it nobody could tell what the run's state is good for."""
        write_json(self.path, self.data, indent=1)
        self._saved = time.monotonic()

    def _measure(self) -> None:
        name, entered, before = self._entered
        self.seconds[name] = round(before + time.monotonic() - entered, 3)
        for kind, peak in (("peak_rss_bytes", peak_memory.peak_rss_bytes()), ("peak_gpu_bytes", peak_memory.peak_gpu_bytes())):
            if peak is not None:
                self.data[kind][name] = max(peak, self.data[kind].get(name, 0))


def told_settings(settings: Settings) -> dict[str, Any]:
    """The settings that a run depends on, as plain JSON."""
    reflection = settings.reflection
    told = {"k": reflection.k, "max_new_tokens": reflection.max_new_tokens, "max_model_len": reflection.max_model_len}
    trainer: dict[str, Any] = settings.trainer.model_dump(mode="json")
    return trainer | told | {"prompt_style": str(reflection.prompt_style), "model_name": settings.registry.model_name}
