"""The part of OpenAI's chat completions API that the tiny base model serves: requests, answers and errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

PositiveTokens = Annotated[int, Field(ge=1)]


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class UserTurn(BaseModel):
    role: Literal["user"]
    content: str | list[TextPart]

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
