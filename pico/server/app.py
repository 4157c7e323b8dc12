"""The OpenAI-compatible HTTP API of a local model, for loopback. Requests that arrive together share a batch in the engine.
It serves a part of the chat completions API: chats of texts, several choices, temperature and top_p. It streams nothing.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, Self

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, Field, model_validator
from starlette.exceptions import HTTPException

from infra.checkpoints.chat_tokenizer import ChatRefused, ChatTurn
from workers.serving.engines.engine import EngineDied, GenerationFailed, GenerationResult, SamplingParameters

MAX_CHOICES = 128
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


class RequestTurn(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: PromptText | list[TextPart]

    @property
    def turn(self) -> ChatTurn:
        return ChatTurn(self.role, self.content if isinstance(self.content, str) else "".join(part.text for part in self.content))


def _alternating(turns: list[RequestTurn]) -> list[RequestTurn]:
    said = turns[1:] if turns[0].role == "system" else turns
    if len(said) % 2 == 0 or any(turn.role != ("user", "assistant")[number % 2] for number, turn in enumerate(said)):
        raise ValueError("a chat is an optional system turn, then user and assistant in turn, and a user turn at the end")
    return turns


class ChatRequest(BaseModel):
    """A chat. Without `temperature`, or with 0, the answer is greedy. `seed` and other parameters of OpenAI's are accepted and ignored."""

    model: str
    messages: Annotated[list[RequestTurn], Field(min_length=1), AfterValidator(_alternating)]
    max_tokens: PositiveTokens | None = None
    max_completion_tokens: PositiveTokens | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: Literal[False] | None = None

    @model_validator(mode="after")
    def _token_limits_agree(self) -> Self:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens must agree")
        return self

    def sampling(self, default_max_tokens: int) -> SamplingParameters:
        max_tokens = self.max_tokens or self.max_completion_tokens or default_max_tokens
        top_p = 1.0 if self.top_p is None else self.top_p
        return SamplingParameters(max_tokens, temperature=self.temperature or 0.0, top_p=top_p, stop=())


class AssistantTurn(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    index: int
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


class TokenEngine(Protocol):
    """The part of `ServingEngine` that this API calls."""

    async def generate_ids(self, token_ids: list[int], sampling: SamplingParameters) -> GenerationResult: ...


class ChatEncoder(Protocol):
    """The part of `ChatTokenizer` that this API calls."""

    def encode_chat(self, turns: list[ChatTurn]) -> list[int]: ...


def create_app(engine: TokenEngine, chat: ChatEncoder, model: str, default_max_tokens: int, on_death: Callable[[], None]) -> FastAPI:
    """Serves `engine` as `model`. Calls `on_death` if the engine has died."""
    app = FastAPI(title="Retouch base model", openapi_url=None)
    started = int(time.time())

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(request: ChatRequest) -> ChatCompletion | JSONResponse:
        if request.model != model:
            return _error(404, f"the model {request.model[:80]!r} does not exist; this server has {model!r}", code="model_not_found", param="model")
        try:
            token_ids = chat.encode_chat([message.turn for message in request.messages])
            sampling = request.sampling(default_max_tokens)
            results = await asyncio.gather(*[engine.generate_ids(token_ids, sampling) for _ in range(request.n or 1)])
        except ChatRefused as error:
            return _error(400, str(error), code="invalid_prompt", param="messages")
        except GenerationFailed as error:
            return _error(400, str(error), code="context_length_exceeded", param="messages")
        except EngineDied:
            on_death()
            return _error(503, "the model has died", kind="server_error")
        choices = [
            Choice(index=index, message=AssistantTurn(content=result.text), finish_reason=str(result.finish_reason)) for index, result in enumerate(results)
        ]
        usage = _usage(len(token_ids), sum(result.completion_tokens for result in results))
        return ChatCompletion(id=f"chatcmpl-{uuid.uuid4().hex}", created=int(time.time()), model=model, choices=choices, usage=usage)

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


def _usage(prompt_tokens: int, completion_tokens: int) -> TokenUsage:
    return TokenUsage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=prompt_tokens + completion_tokens)


def _error(status: int, message: str, *, kind: str = INVALID, code: str | None = None, param: str | None = None) -> JSONResponse:
    return JSONResponse(error_body(message, kind=kind, code=code, param=param), status_code=status)
