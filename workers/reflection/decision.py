"""Decisions of one rewrite, without engine or clock: whether the model runs, the items in its prompt, and whether its answer is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schemas.contexts import Context, HistoryItem, RetrievalStatus
from schemas.drafts import DraftStatus
from schemas.queries import Query, Strategy
from schemas.responses import ResponseStatus
from schemas.rewriting import Rewrite, parse
from schemas.tasks import choose_option


def without_model(context: Context, strategy: Strategy) -> ResponseStatus | None:
    """Why the base answer goes out unchanged; None if the model should rewrite it."""
    if context.draft.status is not DraftStatus.DRAFTED:
        return ResponseStatus.EXPIRED if context.draft.status is DraftStatus.EXPIRED else ResponseStatus.BASE_FAILED
    if strategy is Strategy.ZERO_SHOT:
        return ResponseStatus.ZERO_SHOT
    if context.retrieval is RetrievalStatus.DEADLINE_PASSED:
        return ResponseStatus.DEADLINE_NEAR
    if context.retrieval is RetrievalStatus.INDEX_AWAY:
        return ResponseStatus.INDEX_AWAY
    if not context.items:
        return ResponseStatus.NO_HISTORY
    return None


def shown_items(items: Sequence[HistoryItem], k: int, fits: Callable[[Sequence[HistoryItem]], bool]) -> Sequence[HistoryItem]:
    """The best `k` items, or fewer if the prompt would be too long. Empty if not even one fits."""
    return next((items[:count] for count in range(min(k, len(items)), 0, -1) if fits(items[:count])), ())


def accepted(query: Query, completion: str) -> Rewrite | None:
    """The rewrite, with its answer as `choose_option` spells it. None if it does not parse or its answer is not one of the query's options."""
    rewrite = parse(completion)
    answer = choose_option(rewrite.answer, query.options) if rewrite else None
    return Rewrite(rewrite.reasoning, answer) if rewrite and answer is not None else None
