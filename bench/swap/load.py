"""Load on a reflector: closed-loop for capacity, or Poisson arrivals at a rate. Keeps every answer with its times."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from schemas.contexts import Context
from schemas.ids import derive
from schemas.responses import Response, ResponseStatus
from traffic.world import with_query_id
from workers.reflection.reflector import Reflector

#: Items of each question.
SHOWN = 4
#: A question without an answer after this time counts as dropped.
WITHIN_S = 120.0


@dataclass(frozen=True)
class LoadAnswer:
    """The answer to question number `question`. Times are by one monotonic clock. `status` is None without a response."""

    question: int
    due_s: float
    done_s: float
    status: ResponseStatus | None = None
    version: str | None = None
    reasoning: str = ""
    text: str = ""

    @property
    def ms(self) -> float:
        return (self.done_s - self.due_s) * 1000

    @property
    def is_the_models(self) -> bool:
        """Whether a model wrote the answer."""
        return self.status in (ResponseStatus.PERSONALIZED, ResponseStatus.UNPARSABLE)


@dataclass
class ReflectorLoad:
    """`answers` has every answer of `steady`, in order of arrival."""

    reflector: Reflector
    contexts: Sequence[Context]
    seed: int
    answers: list[LoadAnswer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._rng = random.Random(self.seed)  # noqa: S311  # of a measurement

    async def capacity(self, in_flight: int, seconds: float) -> float:
        """Answers per second with `in_flight` questions at all times."""
        until = time.perf_counter() + seconds
        answers: list[LoadAnswer] = []

        async def keep_asking() -> None:
            while time.perf_counter() < until:
                answers.append(await self._ask(time.perf_counter()))

        began = time.perf_counter()
        await asyncio.gather(*[keep_asking() for _ in range(in_flight)])
        return len(answers) / (time.perf_counter() - began)

    async def steady(self, rate_per_s: float, until: asyncio.Event) -> list[LoadAnswer]:
        """Poisson arrivals until `until` is set. Returns when each has its answer. Latency counts from the due time."""
        tasks: list[asyncio.Task[LoadAnswer]] = []
        for due_s in self._arrivals(rate_per_s):
            pause_s = due_s - time.perf_counter()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            if until.is_set():
                break
            tasks.append(asyncio.create_task(self._ask_and_keep(due_s)))
        return list(await asyncio.gather(*tasks))

    async def _ask_and_keep(self, due_s: float) -> LoadAnswer:
        answer = await self._ask(due_s)
        self.answers.append(answer)
        return answer

    def _arrivals(self, rate_per_s: float) -> Iterator[float]:
        at = time.perf_counter()
        while True:
            at += self._rng.expovariate(rate_per_s)
            yield at

    async def _ask(self, due_s: float) -> LoadAnswer:
        question = self._rng.randrange(len(self.contexts))
        context = self.contexts[question]
        context = with_query_id(context, derive("bench", context.draft.query.query_id, next(self._numbers)))
        try:
            async with asyncio.timeout(WITHIN_S):
                response = await self.reflector.answer(context)
        except Exception:  # any failure counts as a question without an answer
            return LoadAnswer(question, due_s, time.perf_counter())
        return answer_of(question, due_s, response)


def answer_of(question: int, due_s: float, response: Response) -> LoadAnswer:
    """The fields of a response that has just arrived."""
    model = response.provenance.model
    return LoadAnswer(question, due_s, time.perf_counter(), response.status, model.version if model else None, response.reasoning, response.answer)
