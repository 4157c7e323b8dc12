"""Checks that each answer was written by one version alone: on the text itself, not on the stamp.

Rewrites are greedy, so each token of an answer must be the stamped version's first choice after the tokens before it. The prompt is
rebuilt from the response's context, the answer goes through the checkpoint once, and every token is compared with the best one.

- *same*: every token is the stamped version's choice, within `TIE` of the best logit (a different order of float additions can flip a tie);
- *mixed*: not same, but another version explains the whole answer, or its beginning or end, and the stamped version explains the rest;
- *unexplained*: neither same nor mixed.

The stored text is tokenized again. If the model chose other tokens for the same text, the result is unexplained, never same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from infra.checkpoints.chat_tokenizer import ChatTokenizer
from schemas.control_marks import ControlMarks
from schemas.prompts import PromptForm, reflection_prompt
from schemas.responses import Response
from schemas.rewriting import Rewrite

#: A token within this distance of the best logit counts as the greedy choice: kernels add float32 numbers in different orders.
TIE = 0.02


class TraceResult(StrEnum):
    SAME = "same"
    MIXED = "mixed"
    UNEXPLAINED = "unexplained"


class PromptAndAnswer(NamedTuple):
    """The prompt of a version and its whole output, as text."""

    prompt: str
    text: str


class Scorer(Protocol):
    """One checkpoint and the control marks of its tokenizer. `gaps`: for each token of the output, how far its logit is below the best logit."""

    @property
    def marks(self) -> ControlMarks: ...

    def gaps(self, completion: PromptAndAnswer) -> Sequence[float]: ...


def trace_result(stamped: Sequence[float], other: Sequence[float] | None) -> TraceResult:
    """Traces an answer by the gaps of its tokens under the stamped version and under another one, if there is one."""
    by_stamped = [gap <= TIE for gap in stamped]
    if all(by_stamped):
        return TraceResult.SAME
    if other is None:
        return TraceResult.UNEXPLAINED
    by_other = [gap <= TIE for gap in other]
    for cut in range(len(by_stamped) + 1):
        if (all(by_stamped[:cut]) and all(by_other[cut:])) or (all(by_other[:cut]) and all(by_stamped[cut:])):
            return TraceResult.MIXED
    return TraceResult.UNEXPLAINED


def completion_of(response: Response, form: PromptForm, marks: ControlMarks) -> PromptAndAnswer:
    """The reflection model's prompt and output, rebuilt from the response alone."""
    draft = response.context.draft
    shown = [item for item in response.context.items if item.interaction_id in response.provenance.history_ids]
    prompt = reflection_prompt(draft.query, draft.answer, shown, form, marks)
    return PromptAndAnswer(prompt, Rewrite(response.reasoning, response.answer).to_text())


def trace(answers: Iterable[tuple[str, PromptAndAnswer]], scorers: Mapping[str, Scorer]) -> Counter[TraceResult]:
    """Traces each answer, given with its stamped version. Answers of a version without a scorer are unexplained."""
    results: Counter[TraceResult] = Counter()
    for version, completion in answers:
        stamped = scorers.get(version)
        if stamped is None:
            results[TraceResult.UNEXPLAINED] += 1
            continue
        result = trace_result(stamped.gaps(completion), None)
        for other in (scorer for name, scorer in scorers.items() if name != version):
            if result is TraceResult.UNEXPLAINED:
                result = trace_result(stamped.gaps(completion), other.gaps(completion))
        results[result] += 1
    return results


class CheckpointScorer:
    """A Scorer over a checkpoint on disk, by transformers in float32: not the engine that answered."""

    def __init__(self, directory: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.set_num_threads(1)  # ten times faster on a busy machine: the threads of such a small model wait for each other

        self._chat = ChatTokenizer.load(directory)
        self._model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True, use_safetensors=True).eval()

    @property
    def marks(self) -> ControlMarks:
        return self._chat.marks

    def gaps(self, completion: PromptAndAnswer) -> Sequence[float]:
        import torch

        prompt, answer = self._chat.encode(completion.prompt), self._chat.ids(completion.text)
        with torch.inference_mode():
            logits_TV = self._model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        best_T = logits_TV.max(dim=-1).values
        chosen_T = logits_TV.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        gaps: list[float] = (best_T - chosen_T).tolist()
        return gaps
