"""Spans and metrics of calls of language models, by OpenTelemetry's conventions for generative AI. Neither holds a prompt or an answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from infra.telemetry.metrics import MODEL_CALL_DURATION, MODEL_CALL_TOKENS, TokenType
from infra.telemetry.tracing import ActiveSpan, Attributes, SpanKind, span

CHAT = "chat"


@dataclass(frozen=True)
class CalledModel:
    """A model as its caller names it. `url` is that of an endpoint; None: the model runs in this process. `provider` is its API or its engine."""

    name: str
    provider: str
    url: str | None = None

    @property
    def server(self) -> tuple[str, int | None]:
        """Address and port, for the conventions' `server.*`; empty for a model in this process."""
        parts = urlsplit(self.url or "")
        return parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme)


class ModelCall:
    """One call while it runs. Its caller reports how it ended; a call that ends by an exception has failed."""

    def __init__(self, current: ActiveSpan) -> None:
        self._span = current
        self.failure: str | None = None
        self.tokens: dict[TokenType, int] = {}

    @property
    def traceparent(self) -> str:
        """For the header of the request."""
        return self._span.traceparent

    def answered(self, input_tokens: int, output_tokens: int, *, response_model: str | None = None) -> None:
        """`response_model`: the model that answered, if the answer says it. Answers that say nothing about tokens have 0 of both, which are not recorded."""
        if input_tokens or output_tokens:
            self.tokens = {TokenType.INPUT: input_tokens, TokenType.OUTPUT: output_tokens}
            self._span.add({"gen_ai.usage.input_tokens": input_tokens, "gen_ai.usage.output_tokens": output_tokens})
        if response_model:
            self._span.add({"gen_ai.response.model": response_model})

    def failed(self, cause: str, status: int = 0) -> None:
        """`cause` is one of a closed set; `status` of the HTTP response, 0 without one."""
        self.failure = cause
        self._span.fail(cause)
        if status:
            self._span.add({"http.response.status_code": status})


@contextmanager
def model_call(model: CalledModel, max_tokens: int | None = None) -> Iterator[ModelCall]:
    """`with model_call(model) as call:` around one call. A cancelled call is in the duration's metric too, with its error."""
    address, port = model.server
    attributes: Attributes = {"gen_ai.operation.name": CHAT, "gen_ai.provider.name": model.provider, "gen_ai.request.model": model.name}
    if max_tokens is not None:
        attributes["gen_ai.request.max_tokens"] = max_tokens
    if address:
        attributes |= {"server.address": address, "server.port": port or 0}
    began = time.perf_counter()
    with span(f"{CHAT} {model.name}", kind=SpanKind.CLIENT if address else SpanKind.INTERNAL, attributes=attributes) as current:
        call = ModelCall(current)
        try:
            yield call
        except BaseException as error:
            call.failure = type(error).__name__
            raise
        finally:
            _record(model, address, call, time.perf_counter() - began)


def _record(model: CalledModel, address: str, call: ModelCall, seconds: float) -> None:
    labels = {"gen_ai.operation.name": CHAT, "gen_ai.provider.name": model.provider, "gen_ai.request.model": model.name, "server.address": address}
    MODEL_CALL_DURATION.record(seconds, **labels, **{"error.type": call.failure or ""})
    for kind, tokens in call.tokens.items():
        MODEL_CALL_TOKENS.record(tokens, **labels, **{"gen_ai.token.type": kind})
