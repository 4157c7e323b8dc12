"""The decisions around one rewrite, without engine or clock: whether the model is asked, what it is shown, and whether its answer counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schemas.contexts import Context, HistoryItem
from schemas.drafts import DraftStatus
from schemas.queries import Query, Strategy
from schemas.responses import ResponseStatus
from schemas.rewriting import Rewrite, parse


def without_model(context: Context, strategy: Strategy) -> ResponseStatus | None:
    """Why the base answer goes out as it is, or None where the model is to be asked."""
    if context.draft.status is DraftStatus.BASE_FAILED:
        return ResponseStatus.BASE_FAILED
    if strategy is Strategy.ZERO_SHOT:
        return ResponseStatus.ZERO_SHOT
    if not context.items:
        return ResponseStatus.NO_HISTORY
    return None


def shown_items(items: Sequence[HistoryItem], k: int, fits: Callable[[Sequence[HistoryItem]], bool]) -> Sequence[HistoryItem]:
    """The best `k` items, fewer where the prompt would be too long: the weakest go first. Empty when not even one fits."""
    return next((items[:count] for count in range(min(k, len(items)), 0, -1) if fits(items[:count])), ())


def accepted(query: Query, completion: str) -> Rewrite | None:
    """The rewrite, or None when it does not parse or, for labels and ratings, its answer is none of the query's options.

    An option in other letter case counts and is spelled as the query spells it.
    """
    rewrite = parse(completion)
    if rewrite is None or not query.options:
        return rewrite
    spelled = {option.casefold(): option for option in query.options}
    option = spelled.get(rewrite.answer.casefold())
    return Rewrite(rewrite.reasoning, option) if option else None
