"""Prints the report: as a table on a terminal, otherwise as plain lines."""

from __future__ import annotations

from pathlib import Path

from bench.demo.findings import headline
from bench.demo.pictures import duration, title
from bench.demo.report import DemoReport, DomainQuality, Significance

COLOURS = {Significance.BETTER: "green", Significance.SAME: "yellow", Significance.WORSE: "red"}


def show(report: DemoReport, page: Path) -> None:
    """Print to standard output."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        _table(report, page, console)
    else:
        for line in lines(report, page):
            console.out(line, highlight=False)


def lines(report: DemoReport, page: Path) -> list[str]:
    """For pipes and logs: one finding per line."""
    return [headline(report.quality), *report.findings, _latency(report), f"{page} ({report.seconds['total']:.0f} s)"]


def _table(report: DemoReport, page: Path, console: object) -> None:
    from rich.console import Console
    from rich.table import Table

    assert isinstance(console, Console)
    table = Table(title=headline(report.quality), title_justify="left", title_style="bold", expand=False)
    for name in ("domain", "metric"):
        table.add_column(name)
    for name in ("base answer", "before", "after", "after − base [95 %]"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    rows = {title(name): row for name, row in report.quality.domains.items()}
    for name, row in rows.items():
        table.add_row(name, row.metric, *_cells(row), f"[{COLOURS[row.verdict]}]{row.verdict}[/]")
    if overall := report.quality.overall:
        table.add_section()
        table.add_row("All", "mean", *_cells(overall), f"[{COLOURS[overall.verdict]}]{overall.verdict}[/]")
    console.print(table)
    dropped, mixed = sum(swap.dropped for swap in report.swap), sum(swap.mixed_version for swap in report.swap)
    counts = report.counts
    failures = [(counts.lost, "lost"), (counts.duplicated, "duplicated"), (dropped, "dropped in the swap"), (mixed, "mixed versions")]
    listed = "  ".join(f"[{'red' if count else 'green'}]{count}[/] {name}" for count, name in failures)
    console.print(f"{counts.queries:,} questions, {counts.responses:,} answers: {listed}")
    console.print(_latency(report))
    for finding in report.findings:
        console.print(f"[dim]·[/] {finding}", markup=True)
    console.print(f"[bold]{page}[/] after {report.seconds['total']:.0f} s")


def _cells(row: DomainQuality) -> tuple[str, str, str, str]:
    low, high = row.ci95_after_minus_zero_shot
    gain = f"{row.champion_after - row.zero_shot:+.3f} \\[{low:+.3f}, {high:+.3f}]"
    return f"{row.zero_shot:.3f}", f"{row.champion_before:.3f}", f"{row.champion_after:.3f}", gain


def _latency(report: DemoReport) -> str:
    if report.latency_ms is None:
        return "No latency measured."
    steps = {"total": "total", "base": "base model", "retrieve": "retrieval", "reflect": "reflection", "overhead": "overhead"}
    times = [f"{label} {duration(getattr(report.latency_ms, name).p50)} / {duration(getattr(report.latency_ms, name).p99)}" for name, label in steps.items()]
    return f"Latency p50 / p99 while training runs: {', '.join(times)}."
