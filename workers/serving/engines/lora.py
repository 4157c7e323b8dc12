"""Versions as low-rank adapters over one model in vLLM: each place is an adapter id, so a swap loads a few matrices and holds the weights once.

For GPUs: on CPU vLLM's adapters are slow (276 against about 3,200 tokens a second, 2026-11-20). An adapter version is a checkpoint with the adapter in place
of the weights: `adapter_config.json`, its `base_model_name_or_path` and `auto_mapping` emptied, and `adapter_model.safetensors`, as PEFT saves them. The base
itself is a version too. Ids are never used twice, so a prefix computed under one version is never another's.
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
#: vLLM sets room aside for adapters of this rank.
MOST_RANK = 64


class AdapterBackends:
    """Makes the Backends (workers.serving.engines.backend) of one engine; the first call loads `base`. All calls from the engine's thread."""

    def __init__(self, base: Path, options: VllmOptions) -> None:
        self._base, self._options = base, options
        self._shared: VllmBackend | None = None
        self._ids = itertools.count(1)

    def __call__(self, checkpoint: Path) -> Backend:
        if self._shared is None:
            self._shared = VllmBackend(self._base, self._options)
        place = _Place(self._shared, self._ids)
        place.load(checkpoint)
        return place


class _Place:
    """One version. A step works on every place's requests."""

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
        before, self._adapter = self._adapter, self._added(checkpoint)
        if before is not None:
            self._shared.remove_adapter(before)

    def close(self) -> None:
        self._shared.close()

    def _added(self, checkpoint: Path) -> Any:
        if not (checkpoint / CONFIG).is_file():
            return None
        number = next(self._ids)
        return self._shared.add_adapter(f"{checkpoint.name}-{number}", number, checkpoint)


class AdapterBase:
    """What adapters lie over, as it was when this was made. Raises BadCheckpoint for files that are missing or no JSON."""

    def __init__(self, checkpoint: Path) -> None:
        self._name, self._digest, self._traits = checkpoint.name, checkpoint_digest(checkpoint), traits(checkpoint)

    def misfits(self, candidate: Path) -> Sequence[str]:
        """Why `candidate` cannot be served as an adapter over it. Raises as `AdapterBase` does."""
        if not (candidate / CONFIG).is_file():
            same = checkpoint_digest(candidate) == self._digest
            return () if same else (f"full weights other than the base's; reflection.adapters serves {self._name} and adapters over it",)
        if not (candidate / WEIGHTS).is_file():
            raise BadCheckpoint(f"{candidate / WEIGHTS}: missing")
        config = json.loads((candidate / CONFIG).read_text(encoding="utf-8"))
        found = list(differences(self._traits, candidate, adapter=True))
        if config.get("peft_type") != "LORA":
            found.append(f"{CONFIG}: peft_type is {config.get('peft_type')!r}, not 'LORA'")
        if not isinstance(rank := config.get("r"), int) or not 0 < rank <= MOST_RANK:
            found.append(f"{CONFIG}: r is {rank!r}, not 1 to {MOST_RANK}")
        return found
