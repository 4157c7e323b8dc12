"""Serves the tiny base model at `base.url` until a stop."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from infra.checkpoints.chat_tokenizer import ChatTokenizer
from infra.checkpoints.location import checkpoint_folder
from infra.checkpoints.verification import verify_checkpoint
from infra.errors import BadSetting, CannotContinue
from infra.process.lifecycle import mark_ready
from infra.settings import Settings
from infra.urls import without_user
from pico.server.batching import GatheringBackend
from schemas.responses import ModelVersion
from workers.serving.engines.backend import Backend
from workers.serving.engines.scheduler import EngineLimits
from workers.serving.engines.serving_engine import ServingEngine
from workers.serving.engines.transformers_engine import TransformersBackend, TransformersOptions
from workers.serving.engines.version_slots import VersionCheckpoint

log = logging.getLogger(__name__)

THREADS = 1
#: The model's thread and the HTTP thread share the interpreter. Each system call of a request waits up to this long for it while the model computes.
#: At 64 concurrent requests Python's default of 5 ms gave 250 requests a second, this gives 450 (two busy cores, 2026-11-21).
SWITCH_INTERVAL_S = 0.0005
#: Longer than clients keep an idle connection (our aiohttp client: 15 s), so that the server never closes one that a request uses.
KEEP_ALIVE_S = 65
START_WITHIN_S = 60.0


def run(settings: Settings, stop: threading.Event) -> None:
    """Blocks. Raises BadSetting for an invalid address or checkpoint, CannotContinue if the port is in use or the engine dies."""
    import uvicorn

    from pico.server.app import create_app

    host, port = address(settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with _listen(host, port) as listening:
        engine = load_engine(settings)
        died = threading.Event()

        def on_death() -> None:
            died.set()
            stop.set()

        app = create_app(engine, settings.base.model, settings.base.max_new_tokens, on_death)
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


def load_engine(settings: Settings) -> ServingEngine:
    """The tiny model on plain transformers: it starts at once, and its answers have only a few tokens."""
    checkpoint = checkpoint_folder(settings.base.checkpoint)
    if not (checkpoint / "config.json").is_file():
        raise BadSetting(f"base.checkpoint={settings.base.checkpoint}: there is no model in {checkpoint}")
    model = ModelVersion(name=settings.base.model, version="local", digest=verify_checkpoint(checkpoint))
    context = int(json.loads((checkpoint / "config.json").read_text())["max_position_embeddings"])
    limits = EngineLimits(max_model_len=context, in_flight=settings.base.concurrency, drain_s=settings.base.timeout_s)
    options = TransformersOptions(max_batch=settings.base.concurrency, threads=THREADS)

    def make_backend(path: Path) -> Backend:
        return GatheringBackend(TransformersBackend(path, options), full=options.max_batch)

    return ServingEngine.start(make_backend, ChatTokenizer.load(checkpoint), VersionCheckpoint(model, checkpoint), limits)


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
