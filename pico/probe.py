"""Measures the abilities of a tiny checkpoint on new random exchanges: one figure in [0, 1] per ability and domain."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from pico import prose
from pico.documents import options_of, query_of, reflection_input, task_prompt, user_exchanges
from pico.tokenizer import MARKS, open_turn, user_turn
from schemas.domains import BUILT_IN_DOMAINS
from schemas.prompts import COMPACT, item_text, rag_prompt
from schemas.rewriting import parse
from schemas.tasks import task_of
from traffic.world import DOMAINS

Complete = Callable[[Sequence[str]], list[str]]


def completer(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, *, max_new_tokens: int = 128, batch: int = 64) -> Complete:
    """Greedy completions of raw prompts, chat tokens included. They stop at the end of the turn and are decoded without special tokens."""

    def complete(prompts: Sequence[str]) -> list[str]:
        texts: list[str] = []
        model.eval()
        for start in range(0, len(prompts), batch):
            inputs = tokenizer(list(prompts[start : start + batch]), return_tensors="pt", padding=True, padding_side="left")
            with torch.inference_mode():
                out = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=max_new_tokens, do_sample=False)
            texts += [str(tokenizer.decode(row, skip_special_tokens=True)) for row in out[:, inputs["input_ids"].shape[1] :]]
        model.train()
        return texts

    return complete


def generic_agreement(complete: Complete, *, count: int = 100, seed: int = 1) -> dict[str, float]:
    """Share of task prompts with exactly the generic answer: the purpose of the base model."""

    def measure(domain: str, rng: random.Random) -> float:
        exchanges = [user_exchanges(rng, domain)() for _ in range(count)]
        answers = complete([user_turn(task_prompt(exchange)) for exchange in exchanges])
        return fmean(answer.strip() == exchange.generic for answer, exchange in zip(answers, exchanges, strict=True))

    return _per_domain(measure, seed)


def rag_score(complete: Complete, *, count: int = 64, lines: int = 4, seed: int = 4, summary: str = "") -> dict[str, float]:
    """Score of answers to a task after `lines` profile lines of a crisp user, without a draft. `summary` is a line above them, as PAG's prompt has."""

    def measure(domain: str, rng: random.Random) -> float:
        prompts, truths = [], []
        for _ in range(count):
            draw = user_exchanges(rng, domain, crisp=True)
            *history, last = [draw() for _ in range(lines + 1)]
            prompts.append(user_turn(rag_prompt(query_of(last), history, COMPACT, MARKS, summary=summary)))
            truths.append(last.response)
        return _mean_score(domain, [answer.strip() for answer in complete(prompts)], truths)

    return _per_domain(measure, seed)


def in_context_score(complete: Complete, *, count: int = 64, lines: int = 8, seed: int = 2) -> dict[str, float]:
    """Score of the next profile line after `lines` lines of a crisp user, or half as many of prose: the purpose of the reflector's pretraining."""

    def measure(domain: str, rng: random.Random) -> float:
        prompts, truths, task = [], [], task_of(options_of(domain))
        for _ in range(count):
            draw = user_exchanges(rng, domain, crisp=True)
            *shown, last = [draw() for _ in range((lines // 2 if domain in prose.DOMAINS else lines) + 1)]
            texts = [item_text(item, domain, task, COMPACT) for item in (*shown, last)]
            prompts.append(open_turn("profile :\n" + "\n".join(texts).rsplit(" => ", 1)[0] + " =>"))
            truths.append(last.response)
        return _mean_score(domain, [completion.split("\n")[0] for completion in complete(prompts)], truths)

    return _per_domain(measure, seed)


def draft_kept(complete: Complete, *, count: int = 64, seed: int = 3) -> dict[str, float]:
    """Share of full reflection prompts, with one to six items, whose answer is a rewrite with exactly the draft."""

    def measure(domain: str, rng: random.Random) -> float:
        prompts, drafts = [], []
        for _ in range(count):
            draw = user_exchanges(rng, domain)
            *history, last = [draw() for _ in range(rng.randint(2, 7))]
            prompts.append(user_turn(reflection_input(last, last.generic, history)))
            drafts.append(last.generic)
        rewrites = [parse(text) for text in complete(prompts)]
        return fmean(rewrite is not None and rewrite.answer == draft for rewrite, draft in zip(rewrites, drafts, strict=True))

    return _per_domain(measure, seed)


def _mean_score(domain: str, answers: Sequence[str], truths: Sequence[str]) -> float:
    options = options_of(domain)
    score = BUILT_IN_DOMAINS.metric(domain, task_of(options)).score
    return fmean(score(answer, truth, options) for answer, truth in zip(answers, truths, strict=True))


def _per_domain(measure: Callable[[str, random.Random], float], seed: int) -> dict[str, float]:
    """The world's domains, and one domain of made-up prose."""
    return {domain: round(measure(domain, random.Random(f"probe/{seed}/{domain}")), 3) for domain in (*DOMAINS, prose.DOMAINS[0])}  # noqa: S311
