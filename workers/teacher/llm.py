"""The LLM teacher: any OpenAI-compatible endpoint writes the reasoning, as strict structured output.

It is given what the paper gives it (METHODS 1.2): query, base answer, one example, and the truth. Its prompt asks for what the checks
look for; the checks stand all the same.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from schemas.contexts import HistoryItem
from schemas.outcomes import Outcome
from schemas.prompts import PromptStyle, base_prompt, item_text
from schemas.trajectories import Teacher as Signature
from workers.endpoint.client import Completion, Refused
from workers.teacher.teaching import Reason, Rejected, truth_of

MAX_TOKENS = 512

PROMPT = """\
A model rewrites draft answers so that they fit one user. You write the thinking that should come before its rewrite.

Task given to the model:
{task}

Draft answer:
{draft}

One item of the user's own history:
{example}

The rewrite that the thinking must lead to:
{truth}

Write one to three short sentences: name the evidence in the user's item, say what habit it shows, and say how the draft changes because of it \
(or why it stays). Reason only from the task, the draft and the item, as the model will have to: it does not see the rewrite, so never write \
that an answer is correct, given, true or known. Do not quote the rewrite unless it is a single label or score that the evidence leads to. \
Write at most {max_chars} characters, no tags, no lists.
If the item does not support the rewrite at all, answer with an empty string.
"""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reasoning: str


class Asks(Protocol):
    """What is needed of an endpoint (workers.endpoint.client)."""

    async def complete(self, prompt: str, *, max_tokens: int, schema: dict[str, Any]) -> Completion: ...


class LlmTeacher:
    def __init__(self, endpoint: Asks, model: str, max_chars: int) -> None:
        self._endpoint = endpoint
        self._max_chars = max_chars
        self.signature = Signature(name=model, prompt_digest=hashlib.sha256(PROMPT.encode()).hexdigest())

    async def explain(self, outcome: Outcome, example: HistoryItem) -> str | Rejected:
        prompt = self._prompt(outcome, example)
        try:
            completion = await self._endpoint.complete(prompt, max_tokens=MAX_TOKENS, schema=_Answer.model_json_schema())
            return _Answer.model_validate(json.loads(completion.text)).reasoning.strip() or Rejected(Reason.UNSUPPORTED)
        except (Refused, ValueError):
            return Rejected(Reason.UNREADABLE)

    def _prompt(self, outcome: Outcome, example: HistoryItem) -> str:
        draft = outcome.response.context.draft
        return PROMPT.format(
            task=base_prompt(draft.query, PromptStyle.PAPER),
            draft=draft.answer,
            example=item_text(example, draft.query.domain, draft.query.task, PromptStyle.PAPER),
            truth=truth_of(outcome),
            max_chars=self._max_chars,
        )
