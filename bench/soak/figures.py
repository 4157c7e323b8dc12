"""Figures of a soak from its samples and from the lines of the load. No I/O.

Growth compares the median of the last third of the run with the median of the first third. Medians ignore single peaks, such as a garbage collection or a
compaction, and a ratio needs no extrapolation, so it means the same for a run of any length. The capacity load before the run has warmed every process.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.soak.lag import GroupLags, TopicLag
from bench.soak.load import ANSWERED, ASKED
from bench.usage import TreeUse
from bench.workers.answers import spread
from traffic.observer import percentile

#: Memory of one item of history, by which the streams process grows by right: 384 float32 take 1,536 bytes, payload and its indexes the rest.
ITEM_BYTES = 3_000
STREAMS = "streams"
#: A topic with less inflow counts as one record a second: one record of lag there is no delay of minutes.
LEAST_INFLOW = 1.0
#: The shortest bin of latency over time.
BIN_S = 10.0
#: Questions of an interrupted run that are younger than this at its end are open, not lost.
OPEN_S = 30.0


@dataclass(frozen=True)
class Sample:
    """State at `at_s` (seconds since the epoch): use by process, lag by group and topic, and the processes' restarts so far."""

    at_s: float
    processes: Mapping[str, TreeUse]
    lags: GroupLags
    restarts: int


@dataclass(frozen=True)
class AskedQuestion:
    """Times are seconds since the epoch. `visible_s` is the time at which a reader of committed records had the first answer; None without one."""

    due_s: float
    sent_s: float
    visible_s: float | None

    @property
    def latency_ms(self) -> float | None:
        return None if self.visible_s is None else (self.visible_s - self.due_s) * 1000


@dataclass(frozen=True)
class Answers:
    """`repeated`: answers beyond the first of each question. `statuses` counts first answers."""

    questions: Sequence[AskedQuestion]
    repeated: int
    statuses: Mapping[str, int]


def answers_of(lines: Iterable[str]) -> Answers:
    """From the lines of the load. A last line that was cut is ignored, and so are answers to questions of another round."""
    asked: dict[str, tuple[float, float]] = {}
    answered: dict[str, float] = {}
    repeated, statuses = 0, Counter[str]()
    for line in lines:
        if not line.endswith("\n"):
            break
        kind, id, first, second = json.loads(line)
        if kind == ASKED:
            asked[id] = first, second
        elif kind == ANSWERED and id in asked:
            repeated += id in answered
            if id not in answered:
                answered[id] = first
                statuses[second] += 1
    questions = [AskedQuestion(due_s, sent_s, answered.get(id)) for id, (due_s, sent_s) in asked.items()]
    return Answers(questions, repeated, dict(sorted(statuses.items())))


def answer_figures(answers: Answers, begin_s: float, end_s: float, *, was_interrupted: bool) -> dict[str, Any]:
    """Latency counts from the due time, so it has the load's own lateness, which is also told apart."""
    unanswered = [question for question in answers.questions if question.visible_s is None]
    still_open = sum(was_interrupted and question.due_s > end_s - OPEN_S for question in unanswered)
    first, last = (_latencies(answers.questions, *part) for part in (first_third(begin_s, end_s), last_third(begin_s, end_s)))
    p99s = percentile(first, 0.99), percentile(last, 0.99)
    return {
        "asked": len(answers.questions),
        "answered": len(answers.questions) - len(unanswered),
        "lost": len(unanswered) - still_open,
        "open": still_open,
        "repeated": answers.repeated,
        "statuses": dict(answers.statuses),
        "latency_ms": spread(_latencies(answers.questions, begin_s, end_s)),
        "first_third_ms": spread(first),
        "last_third_ms": spread(last),
        "p99_ratio": round(p99s[1] / p99s[0], 3) if p99s[0] and p99s[1] else None,
        "lateness_of_load_ms": spread([(question.sent_s - question.due_s) * 1000 for question in answers.questions]),
        "timeline": latency_timeline(answers.questions, begin_s, end_s),
    }


def latency_timeline(questions: Sequence[AskedQuestion], begin_s: float, end_s: float) -> list[dict[str, Any]]:
    """Latency by due time, in about 60 bins of at least BIN_S."""
    width = max(BIN_S, (end_s - begin_s) / 60)
    by_bin: dict[int, list[float]] = {}
    for question in questions:
        if question.latency_ms is not None:
            by_bin.setdefault(int((question.due_s - begin_s) / width), []).append(question.latency_ms)
    return [
        {
            "at_s": round((number + 0.5) * width, 1),
            "count": len(found),
            "p50_ms": round(percentile(found, 0.5) or 0.0, 1),
            "p99_ms": round(percentile(found, 0.99) or 0.0, 1),
        }
        for number, found in sorted(by_bin.items())
    ]


def first_third(begin_s: float, end_s: float) -> tuple[float, float]:
    return begin_s, begin_s + (end_s - begin_s) / 3


def last_third(begin_s: float, end_s: float) -> tuple[float, float]:
    return end_s - (end_s - begin_s) / 3, end_s


def _latencies(questions: Iterable[AskedQuestion], from_s: float, until_s: float) -> list[float]:
    return [question.latency_ms for question in questions if question.latency_ms is not None and from_s <= question.due_s < until_s]


def medians(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> tuple[float, float] | None:
    """The medians of the first and of the last third; None if one has no value."""
    if not samples:
        return None
    begin_s, end_s = samples[0].at_s, samples[-1].at_s
    parts = []
    for from_s, until_s in (first_third(begin_s, end_s), last_third(begin_s, end_s)):
        found = [each for sample in samples if from_s <= sample.at_s <= until_s if (each := value(sample)) is not None]
        if not found:
            return None
        parts.append(float(median(found)))
    return parts[0], parts[1]


def process_figures(samples: Sequence[Sample], history: str) -> dict[str, dict[str, Any]]:
    """By process. `memory_ratio` is without the items of history that the streams process has indexed in between: ITEM_BYTES each.

    `history` is the topic of the items.
    """
    found = {}
    for name in dict.fromkeys(name for sample in samples for name in sample.processes):
        memory, files, threads, rss = (_use_medians(samples, name, field) for field in ("pss_bytes", "open_files", "threads", "rss_bytes"))
        if memory is None or files is None or threads is None or rss is None or not memory[0]:
            continue
        items = _items(samples, history) if name == STREAMS else 0
        found[name] = {
            "pss_mb": [round(each / 2**20, 1) for each in memory],
            "rss_mb": [round(each / 2**20, 1) for each in rss],
            "open_files": list(files),
            "threads": list(threads),
            "items": items,
            "memory_ratio": round((memory[1] - items * ITEM_BYTES) / memory[0], 4),
            "files_grown": files[1] - files[0],
        }
    return found


def _use_medians(samples: Sequence[Sample], name: str, field: str) -> tuple[float, float] | None:
    return medians(samples, lambda sample: float(getattr(sample.processes[name], field)) if name in sample.processes else None)


def _items(samples: Sequence[Sample], topic: str) -> int:
    """Items that were indexed between the middles of the two thirds."""
    handled = medians(samples, lambda sample: next((float(lag.handled) for (_, name), lag in sample.lags.items() if name == topic), None))
    return round(handled[1] - handled[0]) if handled else 0


def lag_figures(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """By group and topic, the longest delay first. `last_third_s` is the median lag of the last third, in seconds of the topic's inflow."""
    found = []
    for group, topic in sorted({key for sample in samples for key in sample.lags}):
        series = [(sample.at_s, sample.lags[group, topic]) for sample in samples if (group, topic) in sample.lags]
        records = medians(samples, lambda sample, key=(group, topic): float(sample.lags[key].lag) if key in sample.lags else None)  # type: ignore[misc]
        rate = inflow_per_s(series)
        late = records[1] if records else None
        found.append(
            {
                "group": group,
                "topic": topic,
                "inflow_per_s": round(rate, 2),
                "largest": max(lag.lag for _, lag in series),
                "first_third": records[0] if records else None,
                "last_third": late,
                "last_third_s": None if late is None else round(late / max(LEAST_INFLOW, rate), 2),
            }
        )
    return sorted(found, key=lambda each: -(each["last_third_s"] or 0.0))


def inflow_per_s(series: Sequence[tuple[float, TopicLag]]) -> float:
    """Offsets that the topic grew by, in a second."""
    seconds = series[-1][0] - series[0][0]
    return (series[-1][1].end - series[0][1].end) / seconds if seconds > 0 else 0.0


def handled_share(before: Sample, after: Sample) -> tuple[float, str]:
    """The smallest share of a topic's inflow that a group handled between two samples, at most 1, and that group and topic. Ignores slow topics."""
    shares = [(1.0, "")]
    for key, late in after.lags.items():
        early = before.lags.get(key)
        if early is not None and (late.end - early.end) / (after.at_s - before.at_s) >= LEAST_INFLOW:
            shares.append(((late.handled - early.handled) / (late.end - early.end), " of ".join(reversed(key))))
    return min(shares)


def capacity_figures(before: Sample, after: Sample, answers: Answers) -> dict[str, Any]:
    """Answers a second that became visible between two samples, and `per_s`: the same, times the smallest share of inflow that a group handled."""
    seconds = after.at_s - before.at_s
    visible = sum(before.at_s <= question.visible_s < after.at_s for question in answers.questions if question.visible_s is not None)
    share, slowest = handled_share(before, after)
    return {
        "answered_per_s": round(visible / seconds, 2),
        "handled_share": round(share, 4),
        "slowest": slowest,
        "per_s": round(max(0.0, share) * visible / seconds, 2),
        "seconds": round(seconds, 1),
    }


def timeline(samples: Sequence[Sample], begin_s: float) -> dict[str, Any]:
    """All series as columns, for the picture and for other readers of the report. Lag is by group, over its topics."""
    names = list(dict.fromkeys(name for sample in samples for name in sample.processes))
    groups = sorted({group for sample in samples for group, _ in sample.lags})

    def column(name: str, field: str, unit: float = 1.0) -> list[float | None]:
        return [round(getattr(sample.processes[name], field) / unit, 1) if name in sample.processes else None for sample in samples]

    return {
        "at_s": [round(sample.at_s - begin_s, 1) for sample in samples],
        "pss_mb": {name: column(name, "pss_bytes", 2**20) for name in names},
        "rss_mb": {name: column(name, "rss_bytes", 2**20) for name in names},
        "open_files": {name: column(name, "open_files") for name in names},
        "threads": {name: column(name, "threads") for name in names},
        "lag": {group: [sum(lag.lag for (owner, _), lag in sample.lags.items() if owner == group) for sample in samples] for group in groups},
    }
