"""Compares every answer with the answer of its stamped version alone, in an engine that serves only this version.

An equal answer is right. A different answer is traced token by token (`bench.demo.mixed_versions`): another order of float additions can
decide a tie differently, which is right too; if another version explains a part, it is mixed; otherwise it is wrong.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.demo.mixed_versions import PromptAndAnswer, Scorer, TraceResult, trace
from bench.swap.load import LoadAnswer, answer_of
from infra.settings import Settings
from schemas.contexts import Context
from schemas.prompts import reflection_prompt
from schemas.responses import ModelVersion, ResponseStatus
from schemas.rewriting import Rewrite
from workers.reflection.reflector import Reflector
from workers.serving.engines.factory import start_engine
from workers.serving.routes import Routes

#: The answers of one version, by number of the question.
Reference = Mapping[int, LoadAnswer]


def reference(settings: Settings, checkpoint: Path, model: ModelVersion, contexts: Sequence[Context], numbers: Iterable[int]) -> Reference:
    """The answers of this version, alone in memory, to the questions `numbers`. Blocks."""
    alone = settings.changed(reflection={"versions": 1})
    engine = start_engine(alone, checkpoint, model)

    async def ask() -> dict[int, LoadAnswer]:
        reflector = Reflector(alone.reflection, alone.reflection_form, alone.rewrite_limits, engine, lambda: Routes(model))
        slots = asyncio.Semaphore(alone.reflection.concurrency)

        async def answer_question(number: int) -> LoadAnswer:
            async with slots:
                return answer_of(number, time.perf_counter(), await reflector.answer(contexts[number]))

        answered = await asyncio.gather(*[answer_question(number) for number in numbers])
        await engine.close()
        return {answer.question: answer for answer in answered}

    return asyncio.run(ask())


def judge(
    answers: Sequence[LoadAnswer],
    references: Mapping[str, Reference],
    contexts: Sequence[Context],
    settings: Settings,
    scorers: Callable[[], Mapping[str, Scorer]],
) -> dict[str, Any]:
    """Counts of results. `scorers` is called only if an answer differs from its reference."""
    compared = [answer for answer in answers if answer.is_the_models and answer.version in references]
    differing = Counter(answer for answer in map(_without_times, compared) if answer != _without_times(references[str(answer.version)][answer.question]))
    results: Counter[TraceResult] = Counter()
    if differing:
        by_version = scorers()
        traced = functools.partial(_trace, contexts=contexts, settings=settings, scorers=by_version)
        for answer, times in differing.items():
            results[traced(answer)] += times
    return {
        "compared": len(compared),
        "equal": len(compared) - differing.total(),
        "tied": results[TraceResult.SAME],
        "mixed": results[TraceResult.MIXED],
        "wrong": results[TraceResult.UNEXPLAINED],
        "unstamped": sum(answer.is_the_models for answer in answers) - len(compared),
    }


def differing_share(references: Mapping[str, Reference]) -> float:
    """The share of questions that two versions answer differently. Mixed answers to other questions are not detectable."""
    pairs = itertools.combinations(sorted(references), 2)
    differs = [_text_of(references[a][number]) != _text_of(references[b][number]) for a, b in pairs for number in references[a].keys() & references[b].keys()]
    return sum(differs) / len(differs) if differs else 0.0


def _trace(answer: LoadAnswer, *, contexts: Sequence[Context], settings: Settings, scorers: Mapping[str, Scorer]) -> TraceResult:
    if answer.status is not ResponseStatus.PERSONALIZED:
        return TraceResult.UNEXPLAINED  # the output of an unparsable answer is not stored
    scorer = scorers.get(str(answer.version))
    if scorer is None:
        return TraceResult.UNEXPLAINED
    context = contexts[answer.question]
    prompt = reflection_prompt(context.draft.query, context.draft.answer, context.items, settings.reflection_form, scorer.marks)
    (result,) = trace([(str(answer.version), PromptAndAnswer(prompt, Rewrite(answer.reasoning, answer.text).to_text()))], scorers)
    return result


def _text_of(answer: LoadAnswer) -> tuple[object, ...]:
    return answer.status, answer.reasoning, answer.text


def _without_times(answer: LoadAnswer) -> LoadAnswer:
    """The answer without times: equal for the same text of one version to one question."""
    return LoadAnswer(answer.question, 0.0, 0.0, answer.status, answer.version, answer.reasoning, answer.text)
