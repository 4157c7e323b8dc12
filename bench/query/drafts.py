"""Draft to context in the stream: right after a restart, idle, and while history streams in at full rate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

from bench.ingest import stream
from bench.ingest.texts import interactions, short
from bench.query import answers, load, streams
from bench.query.answers import ReadMessage
from bench.query.load import Sent
from bench.query.plan import QueryPlan
from bench.workers.answers import spread
from bench.workers.bench_stack import BenchStack
from bench.workers.live_reader import LiveReader
from infra.errors import CannotContinue
from schemas.topics import CONTEXTS, DRAFTS
from traffic.observer import percentile

#: Time after the last draft for contexts in flight.
DRAIN_S = 60.0


def fill(stack: BenchStack, plan: QueryPlan) -> list[stream.Sample]:
    """Fills the topic, and the index through the stream."""
    stream.fill_topic(stack.settings, interactions(short(plan.points), plan.users))
    return stream.measure(stack, stack.settings, streams.NAME, plan.points, streams.GIVEN)


def restarted_and_idle(stack: BenchStack, plan: QueryPlan) -> dict[str, Any]:
    """Drafts from the moment at which a restarted process serves."""
    with LiveReader(stack.settings, CONTEXTS.name) as reader, streams.running(stack):
        began_s = time.time()
        sent = load.send_steadily(stack.settings, DRAFTS, partial(load.draft, users=plan.users), plan.rate, plan.restart_s + plan.idle_s)
        contexts = answers.wait_for(reader, CONTEXTS.name, sent.at_s, DRAIN_S)
    idle_from = began_s + plan.restart_s
    return {"restarted": figures(sent.after(began_s, idle_from), contexts), "idle": figures(sent.after(idle_from), contexts)}


def loaded(stack: BenchStack, plan: QueryPlan) -> dict[str, Any]:
    """Drafts while the process indexes history that waits in the topic. Raises CannotContinue if none is left when the drafts begin."""
    later = islice(interactions(short(plan.points + plan.history), plan.users), plan.points, None)
    stream.fill_topic(stack.settings, later)
    with LiveReader(stack.settings, CONTEXTS.name) as reader, streams.running(stack) as process:
        time.sleep(plan.settle_s)
        before, began_s = process.indexed(), time.time()
        if before >= plan.history:
            raise CannotContinue(f"all {plan.history} events were indexed within {plan.settle_s:g} s, before the first draft")
        goes_on = partial(_has_history, process, plan)
        sent = load.send_steadily(stack.settings, DRAFTS, partial(load.draft, users=plan.users), plan.rate, plan.loaded_s, goes_on)
        indexed, seconds = process.indexed() - before, time.time() - began_s
        contexts = answers.wait_for(reader, CONTEXTS.name, sent.at_s, DRAIN_S)
    return figures(sent, contexts) | {"history": {"events": indexed, "per_s": round(indexed / seconds, 1), "left": plan.history - before - indexed}}


def _has_history(process: streams.Streams, plan: QueryPlan) -> bool:
    return process.indexed() < plan.history


def figures(sent: Sent, contexts: Mapping[str, ReadMessage]) -> dict[str, Any]:
    """Of the drafts in `sent`. `without_items`: contexts without any item, although every user has a history."""
    found = {id: contexts[id] for id in sent.at_s if id in contexts}
    took_ms = [(each.visible_s - sent.at_s[id]) * 1000 for id, each in found.items()]
    searches = [each.message["retrieve_ms"] for each in found.values()]
    return {
        "sent": len(sent.at_s),
        "lost": len(sent.at_s) - len(found),
        "without_items": sum(not each.message["items"] for each in found.values()),
        "context_ms": spread(took_ms),
        "retrieve_ms": spread(searches),
        "context_percentiles_ms": percentiles(took_ms),
        "retrieve_percentiles_ms": percentiles(searches),
    }


def percentiles(values: list[float]) -> list[float]:
    """From 0 to 100."""
    return [round(percentile(values, share / 100) or 0.0, 2) for share in range(101)] if values else []
