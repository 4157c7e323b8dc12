"""Serves `base.checkpoint` at `base.url` until a stop."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from infra.checkpoints.chat_tokenizer import ChatTokenizer
from infra.checkpoints.location import checkpoint_folder
from infra.checkpoints.size import is_large
from infra.checkpoints.verification import verify_checkpoint
from infra.errors import BadSetting, CannotContinue
from infra.process.lifecycle import mark_ready
from infra.settings import Settings
from infra.settings.models import EngineKind
from infra.urls import without_user
from pico.server.batching import GatheringBackend
from schemas.responses import ModelVersion
from workers.serving.engines.backend import Backend
from workers.serving.engines.factory import installed_kind, prepare_process
from workers.serving.engines.scheduler import EngineLimits
from workers.serving.engines.serving_engine import ServingEngine
from workers.serving.engines.transformers_engine import TransformersBackend, TransformersOptions
from workers.serving.engines.version_slots import VersionCheckpoint
from workers.serving.engines.vllm_engine import VllmBackend, VllmOptions

log = logging.getLogger(__name__)

#: Longer than clients keep an idle connection (our aiohttp client: 15 s), so that the server never closes one that a request uses.
KEEP_ALIVE_S = 65
START_WITHIN_S = 60.0


def run(settings: Settings, stop: threading.Event) -> None:
    """Blocks. Raises BadSetting for an invalid address or checkpoint, CannotContinue if the port is in use or the engine dies."""
    import uvicorn

    from pico.server.app import create_app

    host, port = address(settings)
    with _listen(host, port) as listening:
        engine, chat = load_engine(settings)
        died = threading.Event()

        def on_death() -> None:
            died.set()
            stop.set()

        app = create_app(engine, chat, settings.base.model, settings.base.max_new_tokens, on_death)
        grace_s = int(settings.stack.stop_timeout_s / 2)
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=grace_s, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="http", daemon=True)
        thread.start()
        try:
            _wait_until_started(server, thread)
            mark_ready(settings)
            while not stop.wait(0.2):
                if not thread.is_alive():
                    raise CannotContinue("the HTTP server ended by itself")
        finally:
            server.should_exit = True
            thread.join(settings.stack.stop_timeout_s)
            asyncio.run(engine.close())
    if died.is_set():
        raise CannotContinue("the engine died")


def address(settings: Settings) -> tuple[str, int]:
    """Host and port of `base.url`. Raises BadSetting for a URL that this server cannot serve."""
    parts = urlsplit(settings.base.url or "")
    if parts.scheme != "http" or not parts.hostname or parts.path.rstrip("/") != "/v1":
        raise BadSetting(f"base.url={without_user(settings.base.url or '')!r}: the base endpoint serves http://HOST:PORT/v1")
    return parts.hostname, parts.port or 80


def load_engine(settings: Settings) -> tuple[ServingEngine, ChatTokenizer]:
    """The engine of `base.checkpoint`, and its tokenizer. Blocks: 1 s with transformers, 20 to 40 s with vLLM."""
    base = settings.base
    checkpoint = checkpoint_folder(base.checkpoint)
    if not (checkpoint / "config.json").is_file():
        raise BadSetting(f"base.checkpoint={base.checkpoint}: there is no model in {checkpoint}")
    model = ModelVersion(name=base.model, version="local", digest=verify_checkpoint(checkpoint))
    context = int(json.loads((checkpoint / "config.json").read_text())["max_position_embeddings"])
    limits = EngineLimits(max_model_len=context, in_flight=base.concurrency, drain_s=base.timeout_s)
    kind = engine_kind(settings, checkpoint)
    prepare_process(base.threads)

    def make_backend(path: Path) -> Backend:
        if kind is EngineKind.VLLM:
            return VllmBackend(path, VllmOptions(context, base.concurrency, base.threads, dtype=base.dtype))
        options = TransformersOptions(base.concurrency, base.threads, base.dtype)
        return GatheringBackend(TransformersBackend(path, options), full=options.max_batch)

    chat = ChatTokenizer.load(checkpoint)
    engine = ServingEngine.start(make_backend, chat, VersionCheckpoint(model, checkpoint), limits)
    log.info("base model loaded", extra={"engine": kind, "checkpoint": str(checkpoint), "digest": model.digest})
    return engine, chat


def engine_kind(settings: Settings, checkpoint: Path) -> EngineKind:
    """Resolves `auto`. Raises BadSetting if vLLM is set and not installed."""
    if settings.base.engine is EngineKind.AUTO and not is_large(checkpoint):
        return EngineKind.TRANSFORMERS
    return installed_kind(settings.base.engine, "base.engine")


def _listen(host: str, port: int) -> socket.socket:
    """Binds the port before the model loads, so that a port in use shows at once."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)
    except OSError as error:
        raise CannotContinue(f"base.url: cannot listen on {host}:{port}: {error.strerror}") from None


def _wait_until_started(server: object, thread: threading.Thread) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while not getattr(server, "started", False):
        if not thread.is_alive() or time.monotonic() > deadline:
            raise CannotContinue("the HTTP server did not start")
        time.sleep(0.02)
