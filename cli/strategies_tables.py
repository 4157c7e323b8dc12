"""Tables and sentences of `retouch strategies`, made from the promotion view. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cli.models_tables import TitledTable, interval, number
from schemas.comparison_view import ComparisonView, StrategyDifference, StrategyFigures, StrategyTraffic, StrategyVerdict
from schemas.strategies import Strategy

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def routing(listed: Sequence[Strategy], shares: Mapping[Strategy, float], traffic: Mapping[Strategy, StrategyTraffic]) -> Table:
    rows = []
    for strategy in listed:
        row = traffic.get(strategy)
        share = f"{shares[strategy]:.1%}" if strategy in shares else "if a query names it"
        rows.append((strategy, share, f"{row.answers:,}" if row else "-", f"{row.scored:,}" if row else "-"))
    return ("strategy", "share of users", "answers in the last hour", "scored"), rows


def period(comparison: ComparisonView) -> str:
    since, until = (at.astimezone().strftime("%Y-%m-%d %H:%M:%S") for at in (comparison.since, comparison.until))
    return f"experiment {comparison.experiment}, answers and feedback from {since} to {until}"


def figures(comparison: ComparisonView) -> TitledTable:
    """One row for each strategy and domain."""
    rows = []
    for row in _by_domain(comparison.strategies):
        share = "-" if row.fallback is None else f"{row.fallback:.1%}"
        latency = "-" if row.latency_ms is None else f"{row.latency_ms:,.0f} ms"
        reward = interval(row.mean, row.low, row.high)
        rows.append((row.domain or "all", row.strategy.value, reward, f"{row.scored:,}", f"{row.answers:,}", f"{row.users:,}", share, latency))
    columns = ("domain", "strategy", f"reward and {comparison.confidence:.0%} interval", "scored", "answers", "users", "fallbacks", "latency")
    return TitledTable("strategies", columns, rows)


def differences(comparison: ComparisonView) -> TitledTable:
    rows = [(row.domain or "all", f"{row.strategy} - {row.against}", _difference(row), _verdict(row), row.reason) for row in comparison.differences]
    return TitledTable("differences", ("domain", "difference of", f"reward and {comparison.confidence:.0%} interval", "verdict", "reason"), rows)


def conclusion(comparison: ComparisonView) -> str:
    """One sentence about the first row: all domains, or the only one."""
    row = comparison.differences[0]
    where = f" in {row.domain}" if row.domain else ""
    if row.verdict is StrategyVerdict.UNDECIDED:
        return f"{row.strategy} against {row.against}{where}: not decided yet" + (f", {row.reason}" if row.reason else "")
    return f"{row.strategy} is {row.verdict} than {row.against}{where}: {_difference(row)}"


def _by_domain(rows: Sequence[StrategyFigures]) -> list[StrategyFigures]:
    """All domains first, then the domains by name."""
    return sorted(rows, key=lambda row: (row.domain is not None, row.domain or ""))


def _verdict(row: StrategyDifference) -> str:
    return "not decided yet" if row.verdict is StrategyVerdict.UNDECIDED else row.verdict.value


def _difference(row: StrategyDifference) -> str:
    if row.difference is None:
        return number(None)
    bounds = "" if row.low is None or row.high is None else f" [{row.low:+.3f}, {row.high:+.3f}]"
    return f"{row.difference:+.3f}{bounds}"
