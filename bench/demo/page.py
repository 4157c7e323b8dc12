"""`report.html`: one file with everything in it, so that it can be mailed, archived and opened without a network. No scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from bench.demo import pictures
from bench.demo.findings import headline
from bench.demo.report import DemoReport, ExamSample, PromotionStep, SwapFigures, VersionSummary


def render(report: DemoReport) -> str:
    """The whole page. Every text that came from a record is escaped."""
    style = files("bench.demo").joinpath("page.css").read_text()
    body = "\n".join([_header(report), _tiles(report), _findings(report), _pictures(report), _tables(report), _samples(report.samples), _run(report)])
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Retouch demo report</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(report: DemoReport) -> str:
    form = "short form" if report.short else "full form"
    when = f"{report.started_at:%d %B %Y, %H:%M} UTC".lstrip("0")
    words = escape(headline(report.quality)).replace("held-out", "held&#8209;out")
    return f'<header><p class="eyebrow">Retouch demo · {form} · {when}</p><h1>{words}</h1></header>'


def _tiles(report: DemoReport) -> str:
    dropped, mixed = sum(swap.dropped for swap in report.swap), sum(swap.mixed_version for swap in report.swap)
    steady = next((phase for phase in report.phases if phase.name == report.latency_phase), None)
    busiest = max((phase.answers_per_s for phase in report.phases), default=0.0)
    overall = report.quality.overall
    gain = f"{overall.champion_after - overall.zero_shot:+.3f}" if overall else "–"
    p50 = pictures.duration(report.latency_ms.total.p50) if report.latency_ms else "–"
    tiles = (
        (gain, "mean score over the base answer, held-out users", _tone(bool(overall and overall.ci95_after_minus_zero_shot[0] > 0))),
        (str(report.counts.lost), f"lost of {report.counts.queries:,} questions", _tone(not report.counts.lost)),
        (str(report.counts.duplicated), "answered twice", _tone(not report.counts.duplicated)),
        (str(dropped) if report.swap else "–", f"dropped in {len(report.swap)} swap{'' if len(report.swap) == 1 else 's'} under traffic", _tone(not dropped)),
        (str(mixed) if report.swap else "–", f"of {sum(s.checked for s in report.swap)} answers checked mix two versions", _tone(not mixed)),
        (f"{busiest:.0f}/s", "answers in the busiest phase", ""),
        (p50, f"median answer while training runs ({steady.name})" if steady else "median answer", ""),
        (f"{report.seconds.get('total', 0) / 60:.1f} min", f"whole run on {report.machine.cores} cores", ""),
    )
    return (
        '<div class="tiles">' + "".join(f'<div class="tile {tone}"><b>{value}</b><span>{escape(label)}</span></div>' for value, label, tone in tiles) + "</div>"
    )


def _tone(good: bool) -> str:
    return "good" if good else "bad"


def _findings(report: DemoReport) -> str:
    return _section("What this run shows", "", '<ul class="findings">' + "".join(f"<li>{escape(line)}</li>" for line in report.findings) + "</ul>")


def _pictures(report: DemoReport) -> str:
    quality = (
        "The same questions of users whose data never trained, asked before and after training with the same history in sight. Bars are 95 % bootstrap "
        "intervals over users; a hollow mark on the right means that the interval holds zero."
    )
    changed = "Traffic never stops for the new model: the colour changes while questions keep coming."
    timeline = changed if report.swap else "The workers served one version throughout."
    learning = "RL's reward is taken on sampled rollouts at each stage's own number of examples k; a bar marks a stage's mean."
    latency = "Filled: half of the answers are faster. Hollow: 99 of 100 are. Overhead is the whole less the two models; a burst mostly waits for itself."
    return "\n".join(
        [
            _section("Quality", quality, pictures.quality(report)) if report.quality.domains else "",
            _section("Versions served", timeline, pictures.timeline(report)),
            _section("Learning", learning, pictures.learning(report)),
            _section("Latency", latency, pictures.latency(report)),
        ]
    )


def _tables(report: DemoReport) -> str:
    counts = report.counts
    topics = {
        "interactions": counts.interactions,
        "queries": counts.queries,
        "responses": counts.responses,
        "feedback": counts.feedback,
        "outcomes": counts.outcomes,
        "trajectories": counts.trajectories,
        "model-events": counts.model_events,
    }
    rows = [[escape(topic), _number(count), _number(counts.dead_letters.get(topic, 0))] for topic, count in topics.items()]
    topics_table = _table(["topic", "#records", "#dead letters"], rows)
    statuses = sorted({status for found in report.statuses_by_version.values() for status in found})
    versions = list(report.statuses_by_version)
    labels = ["#no version" if version == "none" else f"#version {version}" for version in versions]
    cells = [[escape(status.replace("_", " ")), *(_number(report.statuses_by_version[version].get(status, 0)) for version in versions)] for status in statuses]
    left = f"<div><h3>Records</h3>{topics_table}</div><div><h3>Answers by status and version</h3>{_table(['status', *labels], cells)}</div>"
    counted = "Counted after the run by a reader of its own: every partition from offset 0, committed records only."
    return "\n".join(
        [
            _section("Integrity", counted, f'<div class="two">{left}</div>{_swaps(report.swap)}'),
            _section("Models", "", _models(report.models) + _steps(report.promotion)),
        ],
    )


def _swaps(swaps: Sequence[SwapFigures]) -> str:
    head = ["versions", "#being written", "#open", "#dropped", "#mixed", "#checked", "#unexplained", "#pause", "#load", "#event to first answer"]
    rows = [
        [
            escape(f"{swap.from_version or '–'} → {swap.to_version}"),
            *map(_number, (swap.in_flight, swap.open_queries, swap.dropped, swap.mixed_version, swap.checked, swap.unexplained)),
            pictures.duration(swap.waited_ms),
            pictures.duration(swap.load_ms),
            "–" if swap.event_to_first_answer_s is None else f"{swap.event_to_first_answer_s:.1f} s",
        ]
        for swap in swaps
    ]
    return "<h3>Swaps</h3>" + (_table(head, rows) if rows else '<p class="soft">There was none.</p>')


def _models(models: Sequence[VersionSummary]) -> str:
    head = ["version", "alias", "parent", "sha256 of the weights", "trained on", "data set's digest", "seconds"]
    return _table(head, [_model(model) for model in models])


def _steps(steps: Sequence[PromotionStep]) -> str:
    """The promotion, as the registry keeps it."""
    rows = [[f"<b>{escape(step.version)}</b>", escape(f"{step.before} → {step.after}"), f"{max(0.0, step.at_s):.1f} s", escape(step.reason)] for step in steps]
    return "<h3>Promotion</h3>" + _table(["version", "step", "#at", "reason"], rows)


def _model(model: VersionSummary) -> list[str]:
    ranges = [
        f"{escape(topic)} {partition}: {first}–{end}" for topic, found in model.offset_ranges.items() for partition, (first, end) in sorted(found.items())
    ]
    seconds = [f"{escape(stage)} {seconds:.0f}" for stage, seconds in model.seconds.items()]
    return [
        f"{escape(model.name)} <b>{escape(model.version)}</b>",
        f'<span class="tag">{escape(model.alias)}</span>' if model.alias else "",
        escape(model.parent or "–"),
        f"<code>{escape(_short(model.digest))}</code>",
        "<br>".join(ranges) or "–",
        f"<code>{escape(_short(model.dataset_digest or '–'))}</code>",
        "<br>".join(seconds) or "–",
    ]


def _short(digest: str) -> str:
    return f"{digest[:20]}…" if len(digest) > 24 else digest


def _samples(samples: Iterable[ExamSample]) -> str:
    shown = "".join(_sample(sample) for sample in samples)
    words = "Exam questions of simulated, held-out users, as they came. All texts are synthetic; no person wrote them."
    return _section("Before and after", words, shown) if shown else ""


def _sample(sample: ExamSample) -> str:
    history = "<br>".join(escape(item) for item in sample.history)
    lines = (
        ("history shown", history, ""),
        ("base answer", escape(sample.draft), ""),
        ("before training", escape(sample.before), ""),
        ("after training", escape(sample.after), "after"),
        ("the user's own", escape(sample.truth), ""),
    )
    told = "".join(f'<dt>{name}</dt><dd class="{kind}">{text or "–"}</dd>' for name, text, kind in lines)
    mark = f'<span class="tag">{escape(pictures.title(sample.domain))} · {escape(sample.user)}</span>'
    return f'<div class="sample"><p>{mark} {escape(sample.query)}</p><dl>{told}</dl></div>'


def _run(report: DemoReport) -> str:
    memory = f"{report.peak_memory_mb:,} MB at the peak" if report.peak_memory_mb else "not measured"
    machine = (("cores", str(report.machine.cores)), ("memory", f"{report.machine.memory_mb:,} MB"), ("system", report.machine.system), ("used", memory))
    facts = [[escape(name), escape(value)] for name, value in (*machine, ("seed", str(report.seed)), *report.versions.items())]
    settings = [[f"<code>{escape(name)}</code>", f"<code>{escape(str(value))}</code>"] for name, value in report.settings.items()]
    halves = f"<div><h3>Machine and parts</h3>{_table([], facts)}</div><div><h3>Settings</h3>{_table([], settings)}</div>"
    return _section("This run", "", f'<div class="two">{halves}</div>') + "<footer>The same figures, for programs: report.json beside this file.</footer>"


def _section(heading: str, words: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{f'<p>{escape(words)}</p>' if words else ''}{content}</section>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already. A heading that begins with `#` is a column of numbers."""
    numbers = [name.startswith("#") for name in head] or [False] * 99
    top = "".join(f'<th class="{"n" if number else ""}">{escape(name.lstrip("#"))}</th>' for name, number in zip(head, numbers, strict=False))
    lines = "".join("<tr>" + "".join(f'<td class="{"n" if n else ""}">{cell}</td>' for cell, n in zip(row, numbers, strict=False)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table>{f"<thead><tr>{top}</tr></thead>" if head else ""}<tbody>{lines}</tbody></table></div>'


def _number(value: int) -> str:
    return f"{value:,}"
