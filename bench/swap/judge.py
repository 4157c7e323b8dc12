"""Right, or not: every answer against what its stamped version answers alone, in an engine that serves nothing else.

Equal words are right. Others are traced token by token (`bench.demo.mixed_versions`): two kernels may add in another order and decide a
tie otherwise, which is right too; what another version explains in part is mixed; what nothing explains is wrong.
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

#: Of a version: what it says to questions, by number.
Reference = Mapping[int, LoadAnswer]


def reference(settings: Settings, checkpoint: Path, model: ModelVersion, contexts: Sequence[Context], wanted: Iterable[int]) -> Reference:
    """What this version alone says to the questions that are wanted; it is the only one in memory. Blocks."""
    alone = settings.model_copy(update={"reflection": settings.reflection.model_copy(update={"versions": 1})})
    engine = start_engine(alone, checkpoint, model)

    async def ask() -> dict[int, LoadAnswer]:
        reflector = Reflector(alone.reflection, engine, lambda: Routes(model))
        places = asyncio.Semaphore(alone.reflection.concurrency)

        async def one(number: int) -> LoadAnswer:
            async with places:
                return answer_of(number, time.perf_counter(), await reflector.answer(contexts[number]))

        found = await asyncio.gather(*[one(number) for number in wanted])
        await engine.close()
        return {answer.question: answer for answer in found}

    return asyncio.run(ask())


def judge(
    answers: Sequence[LoadAnswer],
    references: Mapping[str, Reference],
    contexts: Sequence[Context],
    settings: Settings,
    scorers: Callable[[], Mapping[str, Scorer]],
) -> dict[str, Any]:
    """Counts. `scorers` makes one for each version, and is asked only where words differ."""
    asked = [answer for answer in answers if answer.is_the_models and answer.version in references]
    differing = Counter(answer for answer in map(_words, asked) if answer != _words(references[str(answer.version)][answer.question]))
    found: Counter[TraceResult] = Counter()
    if differing:
        judges = scorers()
        traced = functools.partial(_trace, contexts=contexts, settings=settings, scorers=judges)
        for answer, times in differing.items():
            found[traced(answer)] += times
    return {
        "compared": len(asked),
        "equal": len(asked) - differing.total(),
        "tied": found[TraceResult.SAME],
        "mixed": found[TraceResult.MIXED],
        "wrong": found[TraceResult.UNEXPLAINED],
        "unstamped": sum(answer.is_the_models for answer in answers) - len(asked),
    }


def differing_share(references: Mapping[str, Reference]) -> float:
    """The share of questions that two versions answer in different words: others could be mixed without anybody seeing it."""
    pairs = itertools.combinations(sorted(references), 2)
    told = [_said(references[a][number]) != _said(references[b][number]) for a, b in pairs for number in references[a].keys() & references[b].keys()]
    return sum(told) / len(told) if told else 0.0


def _trace(answer: LoadAnswer, *, contexts: Sequence[Context], settings: Settings, scorers: Mapping[str, Scorer]) -> TraceResult:
    if answer.status is not ResponseStatus.PERSONALIZED:
        return TraceResult.UNEXPLAINED  # what could not be read was not kept
    context = contexts[answer.question]
    prompt = reflection_prompt(context.draft.query, context.draft.answer, context.items, settings.reflection.prompt_style)
    (result,) = trace([(str(answer.version), PromptAndAnswer(prompt, Rewrite(answer.reasoning, answer.text).to_text()))], scorers)
    return result


def _said(answer: LoadAnswer) -> tuple[object, ...]:
    return answer.status, answer.reasoning, answer.text


def _words(answer: LoadAnswer) -> LoadAnswer:
    """Without times: equal for equal words of one version to one question."""
    return LoadAnswer(answer.question, 0.0, 0.0, answer.status, answer.version, answer.reasoning, answer.text)
