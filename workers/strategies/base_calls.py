"""The calls of the base model for one answer, with their tokens and milliseconds."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from infra.endpoints.client import ChatClient
from schemas.drafts import Usage
from schemas.lookups import Spent
from schemas.prompts import ChatTurn
from workers.runtime.clock import Clock


class BaseCalls:
    """`usage` and `ms` are the sums over all calls that returned texts, also those of the query's earlier steps."""

    def __init__(self, endpoint: ChatClient, key: Hashable, clock: Clock, earlier: Spent | None = None) -> None:
        self._endpoint = endpoint
        self._key = key
        self._clock = clock
        self.usage = earlier.base_usage if earlier else Usage()
        self.ms = earlier.base_ms if earlier else 0.0

    async def texts(
        self, turns: Sequence[ChatTurn], *, max_tokens: int, n: int = 1, temperature: float | None = None, schema: dict[str, Any] | None = None
    ) -> tuple[str, ...]:
        """One to `n` texts. Raises PromptRefused, DependencyUnavailable and EndpointFailed, as `ChatEndpoint.complete` does."""
        started = self._clock.monotonic()
        answer = await self._endpoint.complete(turns, max_tokens=max_tokens, schema=schema, n=n, temperature=temperature, key=self._key)
        self.ms += (self._clock.monotonic() - started) * 1000
        self.usage = Usage(
            prompt_tokens=self.usage.prompt_tokens + answer.usage.prompt_tokens,
            completion_tokens=self.usage.completion_tokens + answer.usage.completion_tokens,
        )
        return answer.texts
