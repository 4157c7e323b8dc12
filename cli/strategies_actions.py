"""Work of `retouch strategies`, on what the running promoter publishes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import BaseModel

from cli import strategies_tables
from infra.errors import BadSetting, CannotContinue
from infra.local import running_settings
from infra.process.command_output import show, show_json, show_table
from infra.settings import Settings
from schemas.comparison_view import ComparisonView, StrategyTraffic
from schemas.promotion_view import PromotionView
from schemas.strategies import Strategy
from trainer.promotion.discovery import LocalPromoter, find_promoter
from trainer.promotion.strategy_comparison import between


def list_strategies(settings: Settings, as_json: bool) -> None:
    settings = running_settings(settings)
    promoter, routing = find_promoter(settings), settings.strategies
    view, counts_answers = promoter.view(), not isinstance(promoter, LocalPromoter)
    shares = {strategy: weight / sum(routing.weights.values()) for strategy, weight in routing.weights.items() if weight}
    found = {row.strategy: row for row in view.strategies}
    listed = [strategy for strategy in Strategy if strategy in shares or strategy in found]
    traffic = {name: found.get(name) or StrategyTraffic(strategy=name, answers=0, scored=0) for name in listed} if counts_answers else {}
    if as_json:
        rows = [{"strategy": name, "share": shares.get(name, 0.0), **_counts(traffic.get(name))} for name in listed]
        show_json({"experiment": routing.experiment, "strategies": rows, "comparisons": [comparison.experiment for comparison in view.comparisons]})
        return
    show_table(*strategies_tables.routing(listed, shares, traffic))
    names = ", ".join(comparison.experiment for comparison in view.comparisons) or "none yet"
    answered = f"experiments with answers: {names}" if counts_answers else "answers are unknown, because no promoter runs"
    show(f"users are routed as experiment {routing.experiment}; {answered}")


def compare(settings: Settings, a: str, b: str, domain: str | None, experiment: str | None, as_json: bool) -> None:
    first, second = Strategy(a), Strategy(b)
    if first is second:
        raise BadSetting(f"{a} is compared with itself: name two strategies")
    settings = running_settings(settings)
    promoter = find_promoter(settings)
    if isinstance(promoter, LocalPromoter):
        raise CannotContinue("no promoter runs, so nothing counts the answers: start one with `retouch up` or `python -m trainer.promotion`")
    comparison = _comparison(promoter.view(), (first, second), experiment or settings.strategies.experiment)
    pair = between(comparison, first, second)
    if domain is not None:
        pair = _in_domain(pair, domain)
    if as_json:
        show_json(_json_values(pair))
        return
    show(strategies_tables.period(pair))
    for table in (strategies_tables.figures(pair), strategies_tables.differences(pair)):
        show_table(table.columns, table.rows)
    show(strategies_tables.conclusion(pair))


def _comparison(view: PromotionView, strategies: Sequence[Strategy], experiment: str) -> ComparisonView:
    """The comparison of this name, if it has answers of both strategies. Raises CannotContinue, which says where there are answers."""
    compared = {comparison.experiment: [row.strategy for row in comparison.strategies if row.domain is None] for comparison in view.comparisons}
    missing = [strategy for strategy in strategies if strategy not in compared.get(experiment, ())]
    if not missing:
        return next(comparison for comparison in view.comparisons if comparison.experiment == experiment)
    others = [f"{name} ({', '.join(found)})" for name, found in compared.items() if name != experiment]
    if experiment in compared:
        problem = f"experiment {experiment} has no answers of {' and '.join(missing)}, only of {', '.join(compared[experiment])}"
    else:
        problem = f"experiment {experiment} has no answers"
    if others:
        raise CannotContinue(f"{problem}; other experiments have some, see --experiment: {', '.join(others)}")
    named = [f"{row.answers:,} of {row.strategy}" for row in view.strategies if row.strategy in strategies and row.answers]
    if named and experiment not in compared:
        reason = "users who get a strategy because their queries name it are no random group, and cannot be compared"
        raise CannotContinue(f"{problem}. There were answers in the last hour ({', '.join(named)}), but none by routing: {reason}. {_HOW}")
    raise CannotContinue(f"{problem}. {_HOW}")


_HOW = "Give both strategies a share of users with strategies.weights, and wait for answers"


def _in_domain(pair: ComparisonView, domain: str) -> ComparisonView:
    figures, differences = ([row for row in rows if row.domain == domain] for rows in (pair.strategies, pair.differences))
    if not figures:
        domains = sorted({row.domain for row in pair.strategies if row.domain is not None})
        raise CannotContinue(f"experiment {pair.experiment} has no figures of domain {domain}; it has those of {', '.join(domains)}")
    return pair.model_copy(update={"strategies": tuple(figures), "differences": tuple(differences)})


def _counts(row: StrategyTraffic | None) -> dict[str, int | None]:
    """None: unknown."""
    return {"answers": row.answers if row else None, "scored": row.scored if row else None}


def _json_values(part: BaseModel) -> object:
    """JSON values; an unknown figure is null."""
    return json.loads(part.model_dump_json())
