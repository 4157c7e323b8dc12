"""The LLM teacher: any OpenAI-compatible endpoint writes the reasoning, as strict structured output where the endpoint supports it.

As in the paper (RPO), its prompt has the query, the base answer, one example and the truth. It returns the reasoning and the rewrite that follows from it.
The prompt states the rules of the checks, and the checks test them again.
"""

from __future__ import annotations

import hashlib
import logging

from pydantic import BaseModel, ConfigDict

from infra.endpoints.client import ChatClient, PromptRefused
from infra.endpoints.reply import clean_text, json_object
from schemas.contexts import HistoryItem
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.outcomes import Outcome
from schemas.prompts import PromptForm, base_prompt, item_text, turns_of
from schemas.rewriting import Rewrite
from schemas.sameness import is_blank
from schemas.trajectories import Teacher as Signature
from workers.teacher.checks import ReasoningLength
from workers.teacher.reasoning_teacher import Rejection, RejectionReason, truth_of

log = logging.getLogger(__name__)

NAME = "llm"
#: Maximum tokens of the reasoning; the length of the rewrite is added.
REASONING_TOKENS = 512

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

In `reasoning` write one to three short sentences: name the evidence in the user's item, say what habit it shows, and say how the draft changes because of it \
(or why it stays). Reason only from the task, the draft and the item, as the model will have to: it does not see the rewrite, so never write \
that an answer is correct, given, true or known. Do not quote the rewrite unless it is a single label or score that the evidence leads to. \
Write from {min_chars} to {max_chars} characters, no tags, no lists.
In `personalized` write the answer that your reasoning leads to. It must be the rewrite above, character for character.
If the item does not support the rewrite at all, leave `reasoning` empty.
"""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reasoning: str
    personalized: str


class LlmTeacher:
    def __init__(self, endpoint: ChatClient, model: str, form: PromptForm, length: ReasoningLength) -> None:
        self._endpoint = endpoint
        self._form = form
        self._length = length
        self.signature = Signature(name=NAME, model=model, prompt_digest=hashlib.sha256(PROMPT.encode()).hexdigest())

    async def explain(self, outcome: Outcome, example: HistoryItem) -> Rewrite | Rejection:
        prompt, max_tokens = self._prompt(outcome, example), REASONING_TOKENS + len(truth_of(outcome))
        try:
            key = outcome.response.context.key
            completion = await self._endpoint.complete(prompt, max_tokens=max_tokens, schema=_Answer.model_json_schema(), key=key)
        except PromptRefused as error:
            log.info("the teacher's endpoint gives no answer", extra={"outcome_id": str(outcome.outcome_id), "reason": str(error)})
            return Rejection(RejectionReason.REFUSED)
        return _read(completion.text)

    def _prompt(self, outcome: Outcome, example: HistoryItem) -> str:
        draft = outcome.response.context.draft
        task = turns_of(draft.query, base_prompt(draft.query, self._form, WELL_KNOWN_MARKS), self._form, WELL_KNOWN_MARKS)
        prompt = PROMPT.format(
            task="\n\n".join(turn.content for turn in task),
            draft=draft.answer,
            example=item_text(example, draft.query.domain, draft.query.task, self._form),
            truth=truth_of(outcome),
            min_chars=self._length.min_chars,
            max_chars=self._length.max_chars,
        )
        return WELL_KNOWN_MARKS.neutralized(prompt)


def _read(text: str) -> Rewrite | Rejection:
    """Endpoints that do not honour the schema put JSON into a code fence or between other text, or add fields."""
    found = json_object(text, _Answer.model_fields) or {}
    reasoning, personalized = found.get("reasoning"), found.get("personalized")
    if not isinstance(reasoning, str) or not isinstance(personalized, str):
        return Rejection(RejectionReason.UNREADABLE)
    reasoning = clean_text(reasoning).strip()
    return Rewrite(reasoning, clean_text(personalized)) if not is_blank(reasoning) else Rejection(RejectionReason.UNSUPPORTED)
