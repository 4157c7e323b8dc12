"""Versions as LoRA adapters over one model in vLLM. A version slot is an adapter id, so a swap loads a few matrices and the base weights exist once.

For GPUs: on CPU vLLM's adapters are slow (276 against about 3,200 tokens a second, 2026-11-20). An adapter version is a checkpoint that has, instead of
weights, `adapter_config.json`, with `base_model_name_or_path` and `auto_mapping` empty, and `adapter_model.safetensors`, as PEFT saves them. The base is
also a version. Adapter ids are never used again, so that a cached prefix of one version never serves another.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.checkpoints.verification import BadCheckpoint, checkpoint_digest, differences, traits
from workers.serving.engines.backend import Backend, BackendCompletion
from workers.serving.engines.engine import SamplingParameters
from workers.serving.engines.vllm_engine import VllmBackend, VllmOptions

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: vLLM reserves memory for adapters of this rank.
MAX_RANK = 64


class AdapterBackends:
    """Creates the Backends of one engine, in the engine's thread. The first call loads `base`."""

    def __init__(self, base: Path, options: VllmOptions) -> None:
        self._base, self._options = base, options
        self._shared: VllmBackend | None = None
        self._ids = itertools.count(1)

    def __call__(self, checkpoint: Path) -> Backend:
        if self._shared is None:
            self._shared = VllmBackend(self._base, self._options)
        backend = _AdapterBackend(self._shared, self._ids)
        backend.load(checkpoint)
        return backend


class _AdapterBackend:
    """One version. A step works on the requests of all versions."""

    def __init__(self, shared: VllmBackend, ids: itertools.count[int]) -> None:
        self._shared, self._ids = shared, ids
        self._adapter: Any = None  # None: the base

    def admit(self, request_id: int, token_ids: list[int], sampling: SamplingParameters) -> None:
        self._shared.admit(request_id, token_ids, sampling, self._adapter)

    def abort(self, request_id: int) -> None:
        self._shared.abort(request_id)

    def step(self) -> Sequence[BackendCompletion]:
        return self._shared.step()

    def load(self, checkpoint: Path) -> None:
        previous, self._adapter = self._adapter, self._add(checkpoint)
        if previous is not None:
            self._shared.remove_adapter(previous)

    def close(self) -> None:
        self._shared.close()

    def _add(self, checkpoint: Path) -> Any:
        if not (checkpoint / CONFIG).is_file():
            return None
        number = next(self._ids)
        return self._shared.add_adapter(f"{checkpoint.name}-{number}", number, checkpoint)


class AdapterBase:
    """The checkpoint below the adapters, as it is now. Raises BadCheckpoint if files are missing or are not JSON."""

    def __init__(self, checkpoint: Path) -> None:
        self._name, self._digest, self._traits = checkpoint.name, checkpoint_digest(checkpoint), traits(checkpoint)

    def misfits(self, candidate: Path) -> Sequence[str]:
        """The reasons why `candidate` is neither this base nor an adapter over it. Raises like the constructor."""
        if not (candidate / CONFIG).is_file():
            same = checkpoint_digest(candidate) == self._digest
            return () if same else (f"full weights other than the base's; reflection.adapters serves {self._name} and adapters over it",)
        if not (candidate / WEIGHTS).is_file():
            raise BadCheckpoint(f"{candidate / WEIGHTS}: missing")
        config = json.loads((candidate / CONFIG).read_text(encoding="utf-8"))
        misfits = list(differences(self._traits, candidate, adapter=True))
        if config.get("peft_type") != "LORA":
            misfits.append(f"{CONFIG}: peft_type is {config.get('peft_type')!r}, not 'LORA'")
        if not isinstance(rank := config.get("r"), int) or not 0 < rank <= MAX_RANK:
            misfits.append(f"{CONFIG}: r is {rank!r}, not 1 to {MAX_RANK}")
        return misfits
