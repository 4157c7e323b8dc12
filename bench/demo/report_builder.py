"""Computes the report from the records and files of a run. No I/O, so every figure can be tested without a broker."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from bench.demo import run_files
from bench.demo.findings import findings
from bench.demo.latency import summarize, timings
from bench.demo.mixed_versions import TraceResult
from bench.demo.quality import Graded, judge
from bench.demo.records import RunRecords, Timestamped, per_second, tally, version_of
from bench.demo.report import DemoReport, ExamSample, Latency, PhaseFigures, PromotionStep, SwapFigures, TimelineEvent
from bench.demo.run_files import RunFiles, Truth, WorkerSwap
from bench.machine import Machine
from bench.phases import PhaseClock
from infra.settings import Settings
from schemas.experiments import Arm
from schemas.ids import is_held_out
from schemas.model_events import Alias
from schemas.promotion import VersionState
from schemas.queries import Query
from schemas.responses import Response, ResponseStatus

#: The simulated platform's names of the two exams.
BEFORE, AFTER = "before", "after"
#: Answers within this time before and after a swap are checked token by token, at most this many of each version.
AROUND = timedelta(seconds=20)
CHECKED_PER_VERSION = 100
SAMPLES = 6
#: The version states that the timeline shows.
SHOWN_STATES = frozenset({VersionState.SHADOW, VersionState.CANARY, VersionState.CHAMPION, VersionState.REJECTED, VersionState.INCONCLUSIVE})

#: Traces answers, each with its stamped version, to the versions that can have written them.
Trace = Callable[[Iterable[tuple[str, Response]]], Mapping[TraceResult, int]]


@dataclass(frozen=True)
class DemoRun:
    """All inputs of the report."""

    settings: Settings
    clock: PhaseClock
    records: RunRecords
    files: RunFiles
    machine: Machine
    versions: Mapping[str, str]
    peak_memory_mb: int | None
    short: bool
    seed: int
    sizes: Mapping[str, Any]


def build_report(run: DemoRun, trace: Trace) -> DemoReport:
    """The whole report. `trace` runs checkpoints, which is the only slow part."""
    records, files = run.records, run.files
    answers = records.answer_by_query()
    counts = tally(records, [truth.query_id for truth in files.truths])
    exam = graded(records, files.truths, run.settings.trainer.holdout_share)
    quality = judge([pair.graded for pair in exam], run.settings.entries)
    models = run_files.models(files)
    swaps = tuple(swap_of(records, swap, run.settings, trace) for swap in files.swaps)
    by_phase = latencies(run.clock, records, answers)
    rewards = run_files.rewards(files.training)
    statuses = Counter(str(seen.message.status) for seen in answers.values())
    return DemoReport(
        ok=not (counts.lost or counts.duplicated or any(swap.dropped or swap.mixed_version for swap in swaps)),
        started_at=run.clock.started_at,
        short=run.short,
        seed=run.seed,
        machine=run.machine,
        counts=counts,
        quality=quality,
        models=models,
        promotion=promotion(run.clock, files),
        swap=swaps,
        latency_ms=by_phase.get(LATENCY_PHASE),
        latency_phase=LATENCY_PHASE,
        latency_ms_by_phase=by_phase,
        seconds={span.name: round(run.clock.elapsed(span), 2) for span in run.clock.spans} | {"total": round(run.clock.now_s(), 2)},
        phases=phases(run.clock, records, answers),
        served=per_second(records.responses, run.clock.started_at),
        moments=moments(run.clock, files, swaps),
        statuses=dict(statuses),
        statuses_by_version=_by_version(answers.values()),
        rewards=rewards,
        sft_steps=files.training.sft.steps if files.training and files.training.sft else 0,
        sft_losses=tuple(round(loss, 4) for loss in (files.training.sft_losses if files.training else ())),
        samples=samples(exam),
        peak_memory_mb=run.peak_memory_mb,
        versions=dict(run.versions),
        settings=dict(run.sizes) | _settings(run.settings),
        findings=findings(counts, quality, models, swaps, rewards, statuses),
    )


#: The phase whose latency the report shows: a fixed rate, with training on the rest of the machine.
LATENCY_PHASE = "train"


@dataclass(frozen=True)
class ExamAnswers:
    """One exam question with its answers before and after training."""

    graded: Graded
    before: Response
    after: Response


def graded(records: RunRecords, truths: Iterable[Truth], holdout_share: float) -> list[ExamAnswers]:
    """Pairs the two exams by question. Only held-out users count, and only questions with an answer in both exams: lost answers are counted elsewhere."""
    answers = records.answer_by_query()
    queries = {seen.message.query_id: seen.message for seen in records.queries}
    rounds: dict[str, dict[tuple[str, ...], tuple[Query, str, Response]]] = {BEFORE: {}, AFTER: {}}
    for truth in truths:
        query, answer = queries.get(truth.query_id), answers.get(truth.query_id)
        if truth.phase == "probe" and truth.round in rounds and query and answer:
            rounds[truth.round][_question(query)] = query, truth.truth, answer.message
    pairs = []
    for question in sorted(rounds[BEFORE].keys() & rounds[AFTER].keys()):
        query, truth_text, after = rounds[AFTER][question]
        before = rounds[BEFORE][question][2]
        if is_held_out(query.tenant, query.user, holdout_share):
            row = Graded(query.domain, query.user, query.options, truth_text, after.context.draft.answer, before.answer, after.answer)
            pairs.append(ExamAnswers(row, before, after))
    return pairs


def _question(query: Query) -> tuple[str, ...]:
    """Equal in both exams, whose queries differ only in their ids."""
    return query.tenant, query.user, query.domain, query.text, query.asked_at.isoformat()


def swap_of(records: RunRecords, swap: WorkerSwap, settings: Settings, trace: Trace) -> SwapFigures:
    """The worker's own figures, and the figures from the topics around the time of the swap."""
    at = datetime.fromisoformat(swap.at)
    answers = records.answer_by_query()
    around = [seen for seen in records.queries if abs(seen.at - at) <= AROUND]
    opened = [seen for seen in records.queries if seen.at <= at and (answer := answers.get(seen.message.query_id)) and answer.at >= at]
    results = trace(_to_check(records.responses, swap, at))
    return SwapFigures(
        from_version=swap.from_version,
        to_version=swap.to_version,
        at=at,
        in_flight=swap.in_flight,
        open_queries=len(opened),
        dropped=max(swap.dropped, sum(1 for seen in around if seen.message.query_id not in answers)),
        mixed_version=results.get(TraceResult.MIXED, 0),
        checked=sum(results.values()),
        unexplained=results.get(TraceResult.UNEXPLAINED, 0),
        event_to_first_answer_s=event_to_first_answer_s(records, swap.to_version),
        waited_ms=round(swap.waited_ms, 1),
        load_ms=round(swap.load_ms, 1),
    )


def _to_check(responses: Iterable[Timestamped[Response]], swap: WorkerSwap, at: datetime) -> list[tuple[str, Response]]:
    """The answers of both versions that are nearest to the swap. Only a personalized answer contains the model's whole output."""
    near = sorted((seen for seen in responses if abs(seen.at - at) <= AROUND), key=lambda seen: abs(seen.at - at))
    by_version: dict[str, list[Response]] = defaultdict(list)
    for seen in near:
        version = version_of(seen.message)
        is_whole = seen.message.status is ResponseStatus.PERSONALIZED and version in (swap.from_version, swap.to_version)
        if is_whole and len(by_version[version]) < CHECKED_PER_VERSION:
            by_version[version].append(seen.message)
    return [(version, response) for version, responses in by_version.items() for response in responses]


def event_to_first_answer_s(records: RunRecords, version: str) -> float | None:
    """From the event on `model-events` to the first response of the version as champion, by the producers' clocks. Its canary answers do not count."""
    event = champion_event(records, version)
    first = min((seen.at for seen in records.responses if version_of(seen.message) == version and _by_champion(seen.message)), default=None)
    return round((first - event.at).total_seconds(), 3) if event and first else None


def _by_champion(response: Response) -> bool:
    assignment = response.provenance.assignment
    return assignment is None or assignment.arm in (Arm.CHAMPION, Arm.BASELINE)


def champion_event(records: RunRecords, version: str) -> Timestamped[Any] | None:
    return next((seen for seen in records.model_events if seen.message.version == version and seen.message.alias is Alias.CHAMPION), None)


def promotion(clock: PhaseClock, files: RunFiles) -> tuple[PromotionStep, ...]:
    steps = sorted(((step.at, version.version, step) for version in files.versions for step in version.transitions), key=lambda row: row[:2])
    return tuple(
        PromotionStep(version=version, before=step.before, after=step.after, at_s=round(clock.since_start(at), 2), reason=step.reason)
        for at, version, step in steps
    )


def moments(clock: PhaseClock, files: RunFiles, swaps: Sequence[SwapFigures]) -> tuple[TimelineEvent, ...]:
    """The transitions of versions that this run trained, and the swaps."""
    trained = {version.version for version in files.versions if version.parent}
    steps = [
        TimelineEvent(name=f"version {step.version}: {step.after}", at_s=step.at_s)
        for step in promotion(clock, files)
        if step.version in trained and step.after in SHOWN_STATES
    ]
    swapped = [TimelineEvent(name=f"swap to version {swap.to_version}", at_s=round(clock.since_start(swap.at), 2)) for swap in swaps]
    return tuple(sorted(steps + swapped, key=lambda moment: moment.at_s))


def latencies(clock: PhaseClock, records: RunRecords, answers: Mapping[UUID, Timestamped[Response]]) -> dict[str, Latency]:
    """By the phase in which the question was asked. Phases without answers are left out."""
    by_phase = {}
    for span in clock.spans:
        end_s = span.started_s + clock.elapsed(span)
        if latency := summarize(timings(records.queries, answers, clock.at(span.started_s), clock.at(end_s))):
            by_phase[span.name] = latency
    return by_phase


def phases(clock: PhaseClock, records: RunRecords, answers: Mapping[UUID, Timestamped[Response]]) -> tuple[PhaseFigures, ...]:
    figures = []
    for span in clock.spans:
        seconds = clock.elapsed(span)
        start, end = clock.at(span.started_s), clock.at(span.started_s + seconds)
        queries = [seen for seen in records.queries if start <= seen.at < end]
        answered = [answers[seen.message.query_id].at for seen in queries if seen.message.query_id in answers]
        taken_s = (max(answered) - min(seen.at for seen in queries)).total_seconds() if answered else 0.0
        rate = round(len(answered) / taken_s, 2) if taken_s else 0.0
        times = {"started_s": round(span.started_s, 2), "seconds": round(seconds, 2), "cpu_s": round(span.cpu_s, 2)}
        figures.append(PhaseFigures(name=span.name, **times, queries=len(queries), answers_per_s=rate))
    return tuple(figures)


def samples(exam: Sequence[ExamAnswers]) -> tuple[ExamSample, ...]:
    """Takes the domains in turn, each time another user, if the draft is not already the user's answer. Does not select by result."""
    domains = sorted({pair.graded.domain for pair in exam})
    chosen: list[ExamAnswers] = []
    for turn in range(SAMPLES):
        users = {pair.graded.user for pair in chosen}
        left = (pair for pair in exam if pair.graded.user not in users and pair.graded.draft != pair.graded.truth)
        chosen += [pair for pair in left if pair.graded.domain == domains[turn % len(domains)]][:1]
    return tuple(map(_sample, chosen))


def _sample(pair: ExamAnswers) -> ExamSample:
    row, context, steps = pair.graded, pair.after.context, pair.after.provenance
    shown = [item for item in context.items if item.interaction_id in steps.history_ids]
    return ExamSample(
        domain=row.domain,
        user=row.user,
        query=context.draft.query.text,
        draft=row.draft,
        history=tuple(f"{item.content} → {item.response}" for item in shown),
        before=row.before,
        after=row.after,
        truth=row.truth,
    )


def _by_version(answers: Iterable[Timestamped[Response]]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for seen in answers:
        counts[version_of(seen.message)][str(seen.message.status)] += 1
    return {version: dict(counts[version]) for version in sorted(counts)}


def _settings(settings: Settings) -> dict[str, str | int | float | bool | None]:
    """The settings that influence the figures. No addresses, no secrets."""
    trainer, reflection = settings.trainer, settings.reflection
    chosen: dict[str, str | int | float | bool | None] = {
        "kafka.partitions": settings.kafka.partitions,
        "embedder.model": settings.embedder.model,
        "retrieval.k_max": settings.retrieval.k_max,
        "base.model": settings.base.model,
        "reflection.engine": str(reflection.engine),
        "reflection.k": reflection.k,
        "reflection.threads": reflection.threads,
        "teacher.kind": str(settings.teacher.kind),
        "trainer.holdout_share": trainer.holdout_share,
        "trainer.eval_queries": trainer.eval_queries,
        "trainer.seed": trainer.seed,
    }
    sft = {f"trainer.sft.{name}": value for name, value in trainer.sft.model_dump().items()}
    return chosen | sft | {f"trainer.rl.{name}": value for name, value in trainer.rl.model_dump().items()}
