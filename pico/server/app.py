"""The OpenAI-compatible HTTP API of a tiny model, for loopback. Requests that arrive together share a batch in the engine.
It serves a part of the chat completions API.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, Field, model_validator
from starlette.exceptions import HTTPException

from workers.serving.engines.engine import Engine, EngineDied, GenerationFailed, SamplingParameters

PositiveTokens = Annotated[int, Field(ge=1)]


def _encodable(text: str) -> str:
    """JSON can write half a surrogate pair, which is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair") from None
    return text


PromptText = Annotated[str, AfterValidator(_encodable)]


class TextPart(BaseModel):
    type: Literal["text"]
    text: PromptText


class UserTurn(BaseModel):
    role: Literal["user"]
    content: PromptText | list[TextPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(BaseModel):
    """One user turn. The answer is greedy: `temperature`, `top_p` and `seed` are accepted and ignored."""

    model: str
    messages: Annotated[list[UserTurn], Field(min_length=1, max_length=1)]
    max_tokens: PositiveTokens | None = None
    max_completion_tokens: PositiveTokens | None = None
    n: Literal[1] | None = None
    stream: Literal[False] | None = None

    @model_validator(mode="after")
    def _token_limits_agree(self) -> Self:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens must agree")
        return self


class AssistantTurn(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    index: int = 0
    message: AssistantTurn
    finish_reason: str
    logprobs: None = None


class TokenUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: TokenUsage


class ServedModel(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "retouch"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ServedModel]


def error_body(message: str, *, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


INVALID = "invalid_request_error"


def create_app(engine: Engine, model: str, default_max_tokens: int, on_death: Callable[[], None]) -> FastAPI:
    """Serves `engine` as `model`. Calls `on_death` if the engine has died."""
    app = FastAPI(title="Retouch base model", openapi_url=None)
    started = int(time.time())

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(request: ChatRequest) -> ChatCompletion | JSONResponse:
        if request.model != model:
            return _error(404, f"the model {request.model[:80]!r} does not exist; this server has {model!r}", code="model_not_found", param="model")
        max_tokens = request.max_tokens or request.max_completion_tokens or default_max_tokens
        try:
            prompt = engine.marks.neutralized(request.messages[0].text)
            result = await engine.generate(prompt, SamplingParameters(max_new_tokens=max_tokens, stop=()))
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

    @app.exception_handler(HTTPException)
    async def fail(request: Request, error: HTTPException) -> JSONResponse:
        """Unknown paths and methods, and bodies that no parser takes."""
        return _error(error.status_code, str(error.detail))

    return app


def _error(status: int, message: str, *, kind: str = INVALID, code: str | None = None, param: str | None = None) -> JSONResponse:
    return JSONResponse(error_body(message, kind=kind, code=code, param=param), status_code=status)
