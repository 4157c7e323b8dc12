"""A base model's endpoint for handlers, without HTTP: it returns or raises what the test scripts."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from infra.endpoints.reply import ChatAnswer
from infra.endpoints.request import Prompt
from schemas.drafts import Usage
from tests.support.manual_clock import ManualClock


class ScriptedEndpoint:
    """Each call takes `call_s` of the manual clock, then returns or raises the next of `steps`. `prompts` have the turns' texts."""

    def __init__(self, clock: ManualClock, *steps: Exception | str, call_s: float = 0.0) -> None:
        self._clock, self._steps, self._call_s = clock, list(steps), call_s
        self.prompts: list[str] = []
        self.keys: list[Hashable | None] = []
        self.max_tokens: list[int] = []

    async def complete(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        schema: dict[str, Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        key: Hashable | None = None,
    ) -> ChatAnswer:
        self.prompts.append(prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt))
        self.keys.append(key)
        self.max_tokens.append(max_tokens)
        if self._call_s:
            await self._clock.advance(self._call_s)
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return ChatAnswer(step, Usage(prompt_tokens=4, completion_tokens=2), "a trace")
