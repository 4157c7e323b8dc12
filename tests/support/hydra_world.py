"""Histories of users with a taste each, and a scripted base model that only an item of the user's taste helps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event

from infra.hydra.checkpoint import HydraCheckpoint
from infra.hydra.model import HydraModel
from schemas.ids import derive
from schemas.prompts import PAPER, ChatTurn, PromptForm
from schemas.queries import Query
from trainer.hydra.asking import Ask
from trainer.hydra.histories import PastItem
from trainer.hydra.rows import BlackBox

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
OPTIONS = ("right", "wrong")
TASTES = ("alpha", "beta")


def item(
    number: int,
    user: str = "u0",
    *,
    content: str | None = None,
    response: str = "right",
    options: Sequence[str] = OPTIONS,
    domain: str = "film",
    **times: datetime,
) -> PastItem:
    """Item `number` of a user: asked at minute `number`, answered half a minute later."""
    asked_at = times.get("asked_at", NOON + timedelta(minutes=number))
    text = f"film {number}" if content is None else content
    question = Query(query_id=derive("query", user, number), tenant="t", user=user, domain=domain, text=text, options=tuple(options), asked_at=asked_at)
    return PastItem(question, response, times.get("occurred_at", asked_at + timedelta(seconds=30)))


def taste_of(user: str) -> str:
    return TASTES[int(user.lstrip("tu/")) % len(TASTES)]


def histories(users: int, items: int = 24) -> dict[str, list[PastItem]]:
    """Each user has as many items with `alpha` as with `beta`; which of the two helps depends on the user only."""
    return {
        f"t/u{user}": [item(number, f"u{user}", content=f"{TASTES[number // 2 % 2]} film {number} about {user}") for number in range(items)]
        for user in range(users)
    }


def helpful(checkpoint: HydraCheckpoint, users: Iterable[str]) -> float:
    """The share of items of the user's taste among the four best of eight, of which half are; for items and queries that were in no row."""
    model, hits = HydraModel(checkpoint), []
    for user in users:
        items = [item(number, content=f"{word} film {number} about the sea") for number in range(90, 94) for word in ("alpha", "beta")]
        hits += [taste_of(user) in items[one.position].content for query in range(60, 65) for one in model.rank(user, f"film {query}", items)[:4]]
    return sum(hits) / len(hits)


@dataclass
class TasteBox:
    """Answers right if a demonstration has the word of the user's taste. The user is the last number of a content. `asked` are the questions so far."""

    asked: list[tuple[tuple[ChatTurn, ...], int, float, int]] = field(default_factory=list)

    def __call__(self, turns: Sequence[ChatTurn], n: int, temperature: float, max_tokens: int) -> Sequence[str]:
        self.asked.append((tuple(turns), n, temperature, max_tokens))
        query = turns[-1].content
        taste = TASTES[int(query.split()[-1]) % len(TASTES)]
        helped = any(taste in turn.content for turn in turns[:-1])
        return ["right" if helped or index % 2 else "wrong" for index in range(n)]


def black_box(ask: Ask, form: PromptForm = PAPER) -> BlackBox:
    return BlackBox(ask, form, 64, 2, Event())
