"""`report.html`: one file without scripts that loads nothing, so that it can be mailed, archived and opened offline."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple

from bench.demo import pictures
from bench.demo.findings import headline
from bench.demo.report import DemoReport, SwapFigures


class Tile(NamedTuple):
    """A large figure at the top of the page. `tone` is `good`, `bad` or empty."""

    value: str
    label: str
    tone: str


def render(report: DemoReport) -> str:
    """The whole page. Texts of records are escaped by the template."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"short_digest": _short_digest, "title_of": pictures.title}
    folder = files(__package__)
    template = environment.from_string(folder.joinpath("report.html.j2").read_text(encoding="utf-8"))
    drawings = {name: Markup(getattr(pictures, name)(report)) for name in ("quality", "timeline", "learning", "latency")}  # noqa: S704  # our own SVG
    return template.render(
        report=report,
        style=Markup(folder.joinpath("page.css").read_text(encoding="utf-8")),  # noqa: S704  # our own file
        headline=headline(report.quality).replace("held-out", "held\N{NON-BREAKING HYPHEN}out"),
        pictures=drawings,
        tiles=list(_tiles(report)),
        swap_rows=list(map(_swap_row, report.swap)),
        topic_rows=list(_topic_rows(report)),
        status_head=["status", *("no version" if version == "none" else f"version {version}" for version in report.statuses_by_version)],
        status_rows=list(_status_rows(report)),
        machine_rows=list(_machine_rows(report)),
    )


def _tiles(report: DemoReport) -> Iterator[Tile]:
    dropped, mixed = sum(swap.dropped for swap in report.swap), sum(swap.mixed_version for swap in report.swap)
    overall, counts, has_swap = report.quality.overall, report.counts, bool(report.swap)
    gain = f"{overall.champion_after - overall.zero_shot:+.3f}" if overall else "–"
    yield Tile(gain, "mean score over the base answer, held-out users", _tone(bool(overall and overall.ci95_after_minus_zero_shot[0] > 0)))
    yield Tile(str(counts.lost), f"lost of {counts.queries:,} questions", _tone(not counts.lost))
    yield Tile(str(counts.duplicated), "answered twice", _tone(not counts.duplicated))
    swaps = f"{len(report.swap)} swap{'' if len(report.swap) == 1 else 's'}"
    yield Tile(str(dropped) if has_swap else "–", f"dropped in {swaps} under traffic", _tone(not dropped))
    yield Tile(str(mixed) if has_swap else "–", f"of {sum(swap.checked for swap in report.swap)} checked answers mix two versions", _tone(not mixed))
    yield Tile(f"{max((phase.answers_per_s for phase in report.phases), default=0.0):.0f}/s", "answers in the busiest phase", "")
    steady = any(phase.name == report.latency_phase for phase in report.phases)
    p50 = pictures.duration(report.latency_ms.total.p50) if report.latency_ms else "–"
    yield Tile(p50, f"median latency while training runs (phase {report.latency_phase})" if steady else "median latency", "")
    yield Tile(f"{report.seconds.get('total', 0) / 60:.1f} min", f"whole run on {report.machine.cores} cores", "")


def _tone(good: bool) -> str:
    return "good" if good else "bad"


def _swap_row(swap: SwapFigures) -> list[str]:
    counts = (swap.in_flight, swap.open_queries, swap.dropped, swap.mixed_version, swap.checked, swap.unexplained)
    first_answer = "–" if swap.event_to_first_answer_s is None else f"{swap.event_to_first_answer_s:.1f} s"
    times = (pictures.duration(swap.waited_ms), pictures.duration(swap.load_ms), first_answer)
    return [f"{swap.from_version or '–'} → {swap.to_version}", *map(_number, counts), *times]


def _topic_rows(report: DemoReport) -> Iterator[list[str]]:
    for field in ("interactions", "queries", "responses", "feedback", "outcomes", "trajectories", "model_events"):
        topic = field.replace("_", "-")
        yield [topic, _number(getattr(report.counts, field)), _number(report.counts.dead_letters.get(topic, 0))]


def _status_rows(report: DemoReport) -> Iterator[list[str]]:
    by_version = report.statuses_by_version.values()
    for status in sorted({status for statuses in by_version for status in statuses}):
        yield [status.replace("_", " "), *(_number(statuses.get(status, 0)) for statuses in by_version)]


def _machine_rows(report: DemoReport) -> Iterator[tuple[str, Any]]:
    yield "cores", report.machine.cores
    yield "memory", f"{report.machine.memory_mb:,} MB"
    yield "system", report.machine.system
    yield "peak memory used", f"{report.peak_memory_mb:,} MB" if report.peak_memory_mb else "not measured"
    yield "seed", report.seed
    yield from report.versions.items()


def _short_digest(digest: str) -> str:
    return f"{digest[:20]}…" if len(digest) > 24 else digest


def _number(value: int) -> str:
    return f"{value:,}"
