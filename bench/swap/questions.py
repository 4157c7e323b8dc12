"""The questions of the load: contexts of persona-world users, each with the user's history."""

from __future__ import annotations

from uuid import UUID

from schemas.contexts import Context, HistoryItem, Source
from schemas.drafts import Draft
from schemas.ids import derive
from traffic.world import TWEET_PARAPHRASE, World

SHOWN = 4


def contexts(count: int, seed: int) -> list[Context]:
    """One question of each of `count` users."""
    world = World(seed=seed, tenant="bench", history=SHOWN, questions=1, domains=(TWEET_PARAPHRASE,))
    return [_context(world, number) for number in range(count)]


def ask_again(context: Context, number: int) -> Context:
    """The same question as another query."""
    query = context.draft.query
    query_id: UUID = derive("bench", query.query_id, number)
    return context.model_copy(update={"draft": context.draft.model_copy(update={"query": query.model_copy(update={"query_id": query_id})})})


def _context(world: World, number: int) -> Context:
    persona = world.persona(number)
    (question,) = persona.questions()
    items = tuple(
        HistoryItem.of(past, 0.5, Source(topic="interactions", partition=0, offset=offset)) for offset, past in enumerate(persona.interactions()[-SHOWN:])
    )
    return Context(draft=Draft(query=question.query, answer=question.generic, base_model="bench", base_ms=1), items=items, k_max=SHOWN, retrieve_ms=1)
