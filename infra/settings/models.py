"""Settings of the base model, the reflection workers and the teacher."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator
from pydantic_settings import NoDecode

from infra.settings.section import MAX_S, Attempts, Concurrency, Positive, Seconds, Section, Threads, Tokens
from infra.settings.texts import AnyPath, HeaderSecret, Name, url_of
from schemas.prompts import PromptStyle

#: Fields of a request that are no parameter, with what decides them.
_FIXED_FIELDS = {"model": "is a setting of its own", "messages": "come from the query", "stream": "must stay off: answers are read whole"}

_EXAMPLE = 'write one such as {"temperature": null, "top_p": 0.9}'


def _from_json(value: Any) -> Any:
    """A JSON text from the environment, or from TOML, which has no null. Errors do not repeat it: it may hold a secret."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        json.dumps(parsed, allow_nan=False)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error.msg} in line {error.lineno}, column {error.colno}; {_EXAMPLE}") from None
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"holds what JSON cannot hold, such as NaN, a date, or a number of thousands of digits; {_EXAMPLE}") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"is no JSON object; {_EXAMPLE}")
    return parsed


def _only_parameters(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for name, why in _FIXED_FIELDS.items():
        if name in value:
            raise ValueError(f"must not hold {name!r}, which {why}")
    return value


RequestParameters = Annotated[dict[str, JsonValue], NoDecode, BeforeValidator(_from_json), AfterValidator(_only_parameters)]
NO_PARAMETERS: dict[str, JsonValue] = {}


class EngineKind(StrEnum):
    AUTO = "auto"  # vLLM if it is installed, otherwise transformers
    VLLM = "vllm"
    TRANSFORMERS = "transformers"


class Dtype(StrEnum):
    AUTO = "auto"  # on CPU bfloat16 if the processor multiplies it and the checkpoint stores it, otherwise float32; on GPUs the checkpoint's own
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


#: The name under which the local stack serves the project's tiny base model.
TINY_BASE = "pico-base"


class BaseModelSettings(Section):
    """The base model: any OpenAI-compatible endpoint. It is a black box. RPO and zero-shot send it the task alone, other strategies also history."""

    url: Annotated[str, url_of("http://127.0.0.1:8001/v1", "base.api_key")] | None = None  # http://HOST:PORT/v1; None: the local stack's tiny model
    api_key: HeaderSecret | None = None
    model: Name = TINY_BASE  # the model's name at the endpoint
    parameters: RequestParameters = NO_PARAMETERS  # JSON object merged into each request; null removes a field: {"temperature": null}
    prompt_style: PromptStyle | None = None  # None: `compact` for `pico-base`, the tiny model, and `paper`, which names a query's options, for any other
    max_new_tokens: Tokens = 64  # of one answer
    timeout_s: Seconds = 30.0  # of one call
    attempts: Attempts = 6  # failed calls of one query before its draft is `base_failed`; calls while the endpoint fails for every prompt do not count
    concurrency: Concurrency = 64  # calls at the same time
    breaker_failures: Positive = 5  # failures in a row that open the circuit breaker; those of one user count as one. While it is open no query is sent
    breaker_open_s: Seconds = 3.0  # how long the breaker stays open; then one health check with a constant prompt tests the endpoint
    checkpoint: AnyPath = Path("pico/checkpoints/base")  # what `python -m pico.server` serves; a relative path starts in the folder of the packages
    engine: EngineKind = EngineKind.AUTO  # of `python -m pico.server`; with `auto`, checkpoints below 32 MB are served by transformers, which starts at once
    dtype: Dtype = Dtype.AUTO  # in which `python -m pico.server` computes
    threads: Threads = 1  # of torch in `python -m pico.server`

    @property
    def style(self) -> PromptStyle:
        """The style of the base model's prompts."""
        return self.prompt_style or (PromptStyle.COMPACT if self.model == TINY_BASE else PromptStyle.PAPER)


class ReflectionSettings(Section):
    """The reflection workers."""

    engine: EngineKind = EngineKind.AUTO
    dtype: Dtype = Dtype.AUTO  # in which the engine computes; a change takes effect at the next start
    prompt_style: PromptStyle = PromptStyle.COMPACT  # `paper` for real models
    k: Annotated[int, Field(ge=1, le=100)] = 4  # history items in the prompt, at most retrieval.k_max
    max_new_tokens: Tokens = 96  # of one rewrite: its reasoning, its tags, and an answer of base.max_new_tokens. In domains with their own: docs/domains.md
    max_model_len: Tokens = 2048  # tokens of prompt and completion together
    concurrency: Concurrency = 64  # rewrites at the same time
    threads: Threads = 1  # of torch
    deadline_reserve_s: Annotated[float, Field(ge=0, le=MAX_S)] = (
        0.5  # the base answer goes out if less than this is left before the deadline; 0: only once it has passed
    )
    timeout_s: Seconds = 60.0  # of one rewrite
    poll_s: Seconds = 2.0  # interval between two reads of the registry's aliases; a model event triggers a read at once
    versions: Annotated[int, Field(ge=1, le=8)] = 2  # held in memory; with 1 there is no shadow and no canary, and a swap waits for answers in flight
    adapters: bool = False  # versions are LoRA adapters over `checkpoint`, held side by side in one vLLM; for GPUs. A change takes effect at the next start
    checkpoint: AnyPath = Path("pico/checkpoints/reflector")  # first version of an empty registry; a relative path starts in the folder of the packages


class TeacherKind(StrEnum):
    TEMPLATE = "template"
    LLM = "llm"


class TeacherSettings(Section):
    """The teacher, which writes reasoning traces from a template (`template`) or at an OpenAI-compatible endpoint (`llm`).

    `url`, `api_key`, `model`, `parameters` and `timeout_s` are the endpoint's, and refused without it.
    """

    kind: TeacherKind = TeacherKind.TEMPLATE
    url: Annotated[str, url_of("http://127.0.0.1:8001/v1", "teacher.api_key")] | None = None  # of the endpoint; kind `llm` needs it
    api_key: HeaderSecret | None = None
    model: Name = "gpt-4.1-mini-2025-04-14"  # the paper's teacher
    parameters: RequestParameters = NO_PARAMETERS  # JSON object merged into each request; null removes a field
    min_reasoning_chars: Positive = 10  # letters and digits of a trace; a shorter one is rejected
    max_reasoning_chars: Positive = 1200  # characters of a trace; a longer one is rejected
    timeout_s: Seconds = 60.0  # of one call
    concurrency: Concurrency = 16  # questions at the same time

    @model_validator(mode="after")
    def _llm_has_a_url(self) -> Self:
        if self.kind is TeacherKind.LLM and not self.url:
            raise ValueError("kind 'llm' needs url")
        if self.kind is TeacherKind.TEMPLATE:
            self.refuse_unused(["url", "api_key", "model", "parameters", "timeout_s"], "with teacher.kind=llm, which is template", "set that")
        return self

    @model_validator(mode="after")
    def _some_trace_passes(self) -> Self:
        if self.min_reasoning_chars > self.max_reasoning_chars:
            raise ValueError("min_reasoning_chars must not exceed max_reasoning_chars")
        return self
