"""The OpenAI-compatible HTTP API of a tiny model, for loopback. Requests that arrive together share a batch in the engine."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from pico.server.chat_completions import AssistantTurn, ChatCompletion, ChatRequest, Choice, ModelList, ServedModel, TokenUsage, error_body
from workers.serving.engines.engine import Engine, EngineDied, GenerationFailed, SamplingParameters

INVALID = "invalid_request_error"


def create_app(engine: Engine, model: str, default_max_tokens: int, on_death: Callable[[], None]) -> FastAPI:
    """Serves `engine` as `model`. Calls `on_death` if the engine has died."""
    app = FastAPI(title="Retouch base model", openapi_url=None)
    started = int(time.time())

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(request: ChatRequest) -> ChatCompletion | JSONResponse:
        if request.model != model:
            return _error(404, f"the model {request.model!r} does not exist; this server has {model!r}", code="model_not_found", param="model")
        max_tokens = request.max_tokens or request.max_completion_tokens or default_max_tokens
        try:
            result = await engine.generate(request.messages[0].text, SamplingParameters(max_new_tokens=max_tokens, stop=()))
        except GenerationFailed as error:
            return _error(400, str(error), code="context_length_exceeded", param="messages")
        except EngineDied:
            on_death()
            return _error(503, "the model has died", kind="server_error")
        usage = TokenUsage(
            prompt_tokens=result.prompt_tokens, completion_tokens=result.completion_tokens, total_tokens=result.prompt_tokens + result.completion_tokens
        )
        choice = Choice(message=AssistantTurn(content=result.text), finish_reason=str(result.finish_reason))
        return ChatCompletion(id=f"chatcmpl-{uuid.uuid4().hex}", created=int(time.time()), model=model, choices=[choice], usage=usage)

    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[ServedModel(id=model, created=started)])

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": model}

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        """Status 400 with OpenAI's error format. Names the invalid field, without its value."""
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part != "body")
        return _error(400, f"{param or 'body'}: {first['msg']}", param=param or None)

    return app


def _error(status: int, message: str, *, kind: str = INVALID, code: str | None = None, param: str | None = None) -> JSONResponse:
    return JSONResponse(error_body(message, kind=kind, code=code, param=param), status_code=status)
