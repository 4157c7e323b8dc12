"""Question to response through all hops with stub models, and the share of each hop: base worker, streams, reflection worker, and the broker between them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.query import answers, load, streams
from bench.query.answers import ReadMessage
from bench.query.drafts import DRAIN_S, percentiles
from bench.query.load import Sent
from bench.query.plan import QueryPlan
from bench.workers.answers import spread
from bench.workers.bench_stack import STOP_S, BenchStack
from bench.workers.live_reader import LiveReader
from infra.process.child import Child
from infra.process.ports import free_port
from schemas.responses import ResponseStatus
from schemas.topics import CONTEXTS, DRAFTS, QUERIES, RESPONSES

#: The arms: `workers.commit_every_ms`. None: the default.
COMMITS: tuple[int | None, ...] = (None, 5)
#: The hops in order.
TO_BASE, FROM_BASE, RETRIEVAL, TO_REFLECTION, FROM_REFLECTION = (
    "question sent to call of the base model",
    "its end to draft visible",
    "draft to context visible",
    "context visible to call of the reflection model",
    "its end to response visible",
)
HOPS = (TO_BASE, FROM_BASE, RETRIEVAL, TO_REFLECTION, FROM_REFLECTION)


@dataclass(frozen=True)
class Journey:
    """One question: Unix times in seconds at which it was sent, calls of the models began and ended, and its messages became visible."""

    sent_s: float
    base_began_s: float
    base_ended_s: float
    draft_s: float
    context_s: float
    reflect_began_s: float
    reflect_ended_s: float
    response_s: float

    @property
    def hops_ms(self) -> dict[str, float]:
        """They add up to the overhead. The reader may see a message later than the next hop does: then a hop is too long, and the next one too short."""
        seconds = (
            self.base_began_s - self.sent_s,
            self.draft_s - self.base_ended_s,
            self.context_s - self.draft_s,
            self.reflect_began_s - self.context_s,
            self.response_s - self.reflect_ended_s,
        )
        return {hop: each * 1000 for hop, each in zip(HOPS, seconds, strict=True)}

    @property
    def overhead_ms(self) -> float:
        return sum(self.hops_ms.values())


def arms(stack: BenchStack, plan: QueryPlan) -> list[dict[str, Any]]:
    return [measure(stack, plan, commit_ms) for commit_ms in COMMITS]


def measure(stack: BenchStack, plan: QueryPlan, commit_ms: int | None) -> dict[str, Any]:
    port = free_port("127.0.0.1")
    workers = stack.settings.workers.commit_every_ms if commit_ms is None else commit_ms
    settings = stack.settings.changed(workers={"commit_every_ms": workers}, base={"url": f"http://127.0.0.1:{port}/v1", "model": "stub"})
    suffix = "" if commit_ms is None else f"-{commit_ms}"
    with ExitStack() as entered:
        stub = Child(f"base-stub{suffix}", [sys.executable, "-m", "bench.query.base_stub", f"{port}", f"{plan.base_s}"], stack.logs / f"base-stub{suffix}.log")
        entered.callback(stub.stop, STOP_S)
        stub.start()
        entered.enter_context(streams.running(stack))
        entered.enter_context(streams.started(stack, f"base{suffix}", ("-m", "workers", "base"), settings))
        entered.enter_context(streams.started(stack, f"reflection{suffix}", ("-m", "bench.query.reflection_stub", f"{plan.reflect_s}"), settings))
        reader = entered.enter_context(LiveReader(stack.settings, DRAFTS.name, CONTEXTS.name, RESPONSES.name))
        sent = load.send_steadily(stack.settings, QUERIES, partial(load.question, users=plan.users), plan.rate, plan.warm_s + plan.questions_s)
        found = {topic.name: answers.wait_for(reader, topic.name, sent.at_s, DRAIN_S) for topic in (DRAFTS, CONTEXTS, RESPONSES)}
    counted = sent.after(min(sent.at_s.values()) + plan.warm_s)
    return {"commit_every_ms": workers, "rate_per_s": plan.rate} | figures(counted, found)


def figures(sent: Sent, found: Mapping[str, Mapping[str, ReadMessage]]) -> dict[str, Any]:
    """Of the questions in `sent`, from the messages by topic and query id. `others`: responses that are not personalized; they count as lost."""
    drafts, contexts, responses = (found[topic.name] for topic in (DRAFTS, CONTEXTS, RESPONSES))
    answered = [id for id in sent.at_s if id in drafts and id in contexts and id in responses]
    complete = [id for id in answered if responses[id].message["status"] == ResponseStatus.PERSONALIZED]
    journeys = [_journey(sent.at_s[id], drafts[id], contexts[id], responses[id]) for id in complete]
    overhead = [journey.overhead_ms for journey in journeys]
    return {
        "asked": len(sent.at_s),
        "lost": len(sent.at_s) - len(journeys),
        "others": len(answered) - len(complete),
        "overhead_ms": spread(overhead),
        "total_ms": spread([(journey.response_s - journey.sent_s) * 1000 for journey in journeys]),
        "hops_ms": {hop: spread([journey.hops_ms[hop] for journey in journeys]) for hop in HOPS},
        "retrieve_ms": spread([contexts[id].message["retrieve_ms"] for id in complete]),
        "overhead_percentiles_ms": percentiles(overhead),
    }


def _journey(sent_s: float, draft: ReadMessage, context: ReadMessage, response: ReadMessage) -> Journey:
    base_began, base_ended = map(float, draft.message["answer"].split())
    reflect_began, reflect_ended = map(float, response.message["reasoning"].split())
    return Journey(sent_s, base_began, base_ended, draft.visible_s, context.visible_s, reflect_began, reflect_ended, response.visible_s)
