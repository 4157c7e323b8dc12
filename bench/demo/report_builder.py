"""From records and evidence to the report: pure, so that every figure can be tested without a broker."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from bench.demo import run_files as told
from bench.demo.answers_per_second import per_second, version_of
from bench.demo.findings import findings
from bench.demo.latency import summarize, timings
from bench.demo.mixed_versions import PromptAndAnswer, TraceResult, completion_of
from bench.demo.progress import PhaseClock
from bench.demo.quality import Graded, judge
from bench.demo.records import RunRecords, Timestamped, tally
from bench.demo.report import DemoReport, ExamSample, Latency, Machine, PhaseFigures, PromotionStep, SwapFigures, TimelineEvent
from bench.demo.run_files import RunFiles, Truth, WorkerSwap
from infra.settings import Settings
from schemas.experiments import Arm
from schemas.ids import is_held_out
from schemas.model_events import Alias
from schemas.promotion import VersionState
from schemas.queries import Query
from schemas.responses import Response, ResponseStatus

#: The platform's names of the two exams.
BEFORE, AFTER = "before", "after"
#: Answers this long before and after a swap are checked token by token, so many at most of each version.
AROUND = timedelta(seconds=20)
CHECKED_EACH = 100
SAMPLES = 6
#: The steps of a version that the timeline names: a gate takes no time there.
SHOWN = frozenset({VersionState.SHADOW, VersionState.CANARY, VersionState.CHAMPION, VersionState.REJECTED, VersionState.INCONCLUSIVE})

#: Traces answers, each given with its stamped version, to who wrote them.
Check = Callable[[Iterable[tuple[str, PromptAndAnswer]]], Mapping[TraceResult, int]]


@dataclass(frozen=True)
class DemoRun:
    """Everything that is known once the run is over."""

    settings: Settings
    clock: PhaseClock
    ledger: RunRecords
    evidence: RunFiles
    machine: Machine
    versions: Mapping[str, str]
    peak_memory_mb: int | None
    short: bool
    seed: int
    sizes: Mapping[str, Any]


def build_report(run: DemoRun, check: Check) -> DemoReport:
    """The whole report. `check` runs checkpoints, the one slow part."""
    ledger, evidence = run.ledger, run.evidence
    answers = ledger.answer_by_query()
    counts = tally(ledger, [truth.query_id for truth in evidence.truths])
    exam = graded(ledger, evidence.truths, run.settings.trainer.holdout_share)
    quality = judge([paper.graded for paper in exam])
    models = told.models(evidence)
    swaps = tuple(swap_of(ledger, swap, run.settings, check) for swap in evidence.swaps)
    by_phase = latencies(run.clock, ledger, answers)
    rewards = told.rewards(evidence.training)
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
        promotion=promotion(run.clock, evidence),
        swap=swaps,
        latency_ms=by_phase.get(LATENCY_PHASE),
        latency_phase=LATENCY_PHASE,
        latency_ms_by_phase=by_phase,
        seconds={span.name: round(run.clock.elapsed(span), 2) for span in run.clock.spans} | {"total": round(run.clock.now_s(), 2)},
        phases=phases(run.clock, ledger, answers),
        served=per_second(ledger.responses, run.clock.started_at),
        moments=moments(run.clock, evidence, swaps),
        statuses=dict(statuses),
        statuses_by_version=_by_version(answers.values()),
        rewards=rewards,
        sft_steps=evidence.training.sft.steps if evidence.training and evidence.training.sft else 0,
        sft_losses=tuple(round(loss, 4) for loss in (evidence.training.sft_losses if evidence.training else ())),
        samples=samples(exam),
        peak_memory_mb=run.peak_memory_mb,
        versions=dict(run.versions),
        settings=dict(run.sizes) | _settings(run.settings),
        findings=findings(counts, quality, models, swaps, rewards, statuses),
    )


#: The phase whose latency is the report's: a known, steady rate, while training takes what the machine has left.
LATENCY_PHASE = "train"


@dataclass(frozen=True)
class ExamAnswers:
    """One exam question with both of its answers."""

    graded: Graded
    before: Response
    after: Response


def graded(ledger: RunRecords, truths: Iterable[Truth], holdout_share: float) -> list[ExamAnswers]:
    """Pair the two exams by question. Only held-out users count, and only questions that both rounds answered: a loss is counted elsewhere."""
    answers = ledger.answer_by_query()
    queries = {seen.message.query_id: seen.message for seen in ledger.queries}
    rounds: dict[str, dict[tuple[str, ...], tuple[Query, str, Response]]] = {BEFORE: {}, AFTER: {}}
    for truth in truths:
        query, answer = queries.get(truth.query_id), answers.get(truth.query_id)
        if truth.phase == "probe" and truth.round in rounds and query and answer:
            rounds[truth.round][_question(query)] = query, truth.truth, answer.message
    papers = []
    for question in sorted(rounds[BEFORE].keys() & rounds[AFTER].keys()):
        query, truth_text, after = rounds[AFTER][question]
        before = rounds[BEFORE][question][2]
        if is_held_out(query.tenant, query.user, holdout_share):
            row = Graded(query.domain, query.user, query.options, truth_text, after.context.draft.answer, before.answer, after.answer)
            papers.append(ExamAnswers(row, before, after))
    return papers


def _question(query: Query) -> tuple[str, ...]:
    """The same in both rounds, whose queries differ in their ids alone."""
    return query.tenant, query.user, query.domain, query.text, query.asked_at.isoformat()


def swap_of(ledger: RunRecords, swap: WorkerSwap, settings: Settings, check: Check) -> SwapFigures:
    """The worker's own figures, and beside them what the topics say about the time around the swap."""
    at = datetime.fromisoformat(swap.at)
    answers = ledger.answer_by_query()
    around = [seen for seen in ledger.queries if abs(seen.at - at) <= AROUND]
    opened = [seen for seen in ledger.queries if seen.at <= at and (answer := answers.get(seen.message.query_id)) and answer.at >= at]
    origins = check(_to_check(ledger.responses, swap, at, settings))
    return SwapFigures(
        from_version=swap.from_version,
        to_version=swap.to_version,
        at=at,
        in_flight=swap.in_flight,
        open_queries=len(opened),
        dropped=max(swap.dropped, sum(1 for seen in around if seen.message.query_id not in answers)),
        mixed_version=origins.get(TraceResult.MIXED, 0),
        checked=sum(origins.values()),
        unexplained=origins.get(TraceResult.UNEXPLAINED, 0),
        event_to_first_answer_s=event_to_first_answer_s(ledger, swap.to_version),
        waited_ms=round(swap.waited_ms, 1),
        load_ms=round(swap.load_ms, 1),
    )


def _to_check(responses: Iterable[Timestamped[Response]], swap: WorkerSwap, at: datetime, settings: Settings) -> list[tuple[str, PromptAndAnswer]]:
    """Answers nearest to the swap, of both versions. Only a personal answer holds the whole of what the model wrote."""
    near = sorted((seen for seen in responses if abs(seen.at - at) <= AROUND), key=lambda seen: abs(seen.at - at))
    found: dict[str, list[PromptAndAnswer]] = defaultdict(list)
    for seen in near:
        version = version_of(seen.message)
        whole = seen.message.status is ResponseStatus.PERSONALIZED and version in (swap.from_version, swap.to_version)
        if whole and len(found[version]) < CHECKED_EACH:
            found[version].append(completion_of(seen.message, settings.reflection.prompt_style))
    return [(version, completion) for version, completions in found.items() for completion in completions]


def event_to_first_answer_s(ledger: RunRecords, version: str) -> float | None:
    """From the record on `model-events` to the first response that the version gave as champion, by the writers' clocks: as canary it answered before."""
    event = champion_event(ledger, version)
    first = min((seen.at for seen in ledger.responses if version_of(seen.message) == version and _by_champion(seen.message)), default=None)
    return round((first - event.at).total_seconds(), 3) if event and first else None


def _by_champion(response: Response) -> bool:
    assignment = response.provenance.assignment
    return assignment is None or assignment.arm in (Arm.CHAMPION, Arm.BASELINE)


def champion_event(ledger: RunRecords, version: str) -> Timestamped[Any] | None:
    return next((seen for seen in ledger.model_events if seen.message.version == version and seen.message.alias is Alias.CHAMPION), None)


def promotion(clock: PhaseClock, evidence: RunFiles) -> tuple[PromotionStep, ...]:
    steps = sorted(((step.at, version.version, step) for version in evidence.versions for step in version.transitions), key=lambda one: one[:2])
    return tuple(
        PromotionStep(version=version, before=step.before, after=step.after, at_s=round(clock.since_start(at), 2), reason=step.reason)
        for at, version, step in steps
    )


def moments(clock: PhaseClock, evidence: RunFiles, swaps: Sequence[SwapFigures]) -> tuple[TimelineEvent, ...]:
    """The steps of what was trained in this run, and the swaps."""
    trained = {version.version for version in evidence.versions if version.parent}
    steps = [
        TimelineEvent(name=f"version {step.version}: {step.after}", at_s=step.at_s)
        for step in promotion(clock, evidence)
        if step.version in trained and step.after in SHOWN
    ]
    swapped = [TimelineEvent(name=f"swap to version {swap.to_version}", at_s=round(clock.since_start(swap.at), 2)) for swap in swaps]
    return tuple(sorted(steps + swapped, key=lambda moment: moment.at_s))


def latencies(clock: PhaseClock, ledger: RunRecords, answers: Mapping[UUID, Timestamped[Response]]) -> dict[str, Latency]:
    """By the phase in which the question was asked; phases without questions are left out."""
    found = {}
    for span in clock.spans:
        end_s = span.started_s + clock.elapsed(span)
        if latency := summarize(timings(ledger.queries, answers, clock.at(span.started_s), clock.at(end_s))):
            found[span.name] = latency
    return found


def phases(clock: PhaseClock, ledger: RunRecords, answers: Mapping[UUID, Timestamped[Response]]) -> tuple[PhaseFigures, ...]:
    found = []
    for span in clock.spans:
        seconds = clock.elapsed(span)
        start, end = clock.at(span.started_s), clock.at(span.started_s + seconds)
        asked = [seen for seen in ledger.queries if start <= seen.at < end]
        answered = [answers[seen.message.query_id].at for seen in asked if seen.message.query_id in answers]
        taken_s = (max(answered) - min(seen.at for seen in asked)).total_seconds() if answered else 0.0
        rate = round(len(answered) / taken_s, 2) if taken_s else 0.0
        times = {"started_s": round(span.started_s, 2), "seconds": round(seconds, 2), "cpu_s": round(span.cpu_s, 2)}
        found.append(PhaseFigures(name=span.name, **times, queries=len(asked), answers_per_s=rate))
    return tuple(found)


def samples(exam: Sequence[ExamAnswers]) -> tuple[ExamSample, ...]:
    """The domains in turn, each time of another user, whatever came of the question, where the draft was not already the user's answer."""
    domains = sorted({paper.graded.domain for paper in exam})
    chosen: list[ExamAnswers] = []
    for turn in range(SAMPLES):
        seen = {paper.graded.user for paper in chosen}
        left = (paper for paper in exam if paper.graded.user not in seen and paper.graded.draft != paper.graded.truth)
        chosen += [paper for paper in left if paper.graded.domain == domains[turn % len(domains)]][:1]
    return tuple(map(_sample, chosen))


def _sample(paper: ExamAnswers) -> ExamSample:
    row, context, steps = paper.graded, paper.after.context, paper.after.provenance
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
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for seen in answers:
        found[version_of(seen.message)][str(seen.message.status)] += 1
    return {version: dict(found[version]) for version in sorted(found)}


def _settings(settings: Settings) -> dict[str, str | int | float | bool | None]:
    """Those that shape the figures; addresses and secrets are not among them."""
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
