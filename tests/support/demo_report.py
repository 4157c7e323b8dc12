"""Synthetic records and a complete synthetic report of the demo."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from uuid import UUID

from bench.demo.findings import findings
from bench.demo.latency import Timing, summarize
from bench.demo.quality import Graded, judge
from bench.demo.records import RunRecords, Timestamped
from bench.demo.report import (
    DemoReport,
    ExamSample,
    PhaseFigures,
    PromotionStep,
    RecordCounts,
    RewardPoint,
    SecondOfAnswers,
    SwapFigures,
    TimelineEvent,
    VersionFigures,
)
from bench.machine import Machine
from schemas.contexts import Context
from schemas.drafts import Draft
from schemas.ids import derive
from schemas.queries import Query
from schemas.responses import ModelVersion, Provenance, Response, ResponseStatus
from schemas.strategies import Strategy
from schemas.tasks import MOVIE_TAGS, STARS

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def query(number: int, *, user: str = "u1", asked_s: float = 0.0) -> Timestamped[Query]:
    message = Query(query_id=query_id(number), tenant="demo", user=user, domain="movie_tag", text=f"film {number}", options=MOVIE_TAGS, asked_at=NOON)
    return Timestamped(message, at(asked_s))


def query_id(number: int) -> UUID:
    return derive("query", number)


def response(
    to: Timestamped[Query], *, answered_s: float, version: str | None = "1", answer: str = "comedy", base_ms: float = 10, reflect_ms: float = 30
) -> Timestamped[Response]:
    draft = Draft(query=to.message, answer="sci-fi", base_model="pico-base", base_ms=base_ms)
    provenance = Provenance(
        model=ModelVersion(name="retouch-reflector", version=version, digest="sha256:" + version * 8) if version else None,
        base_model="pico-base",
        strategy=Strategy.RPO,
        k=4,
        history_ids=(),
        prompt_digest=None,
        base_ms=base_ms,
        retrieve_ms=5,
        reflect_ms=reflect_ms,
    )
    message = Response(
        query_id=to.message.query_id,
        context=Context(draft=draft, items=(), k_max=6, retrieve_ms=5),
        answer=answer,
        reasoning="",
        status=ResponseStatus.PERSONALIZED if version else ResponseStatus.NO_HISTORY,
        provenance=provenance,
        answered_at=at(answered_s),
    )
    return Timestamped(message, at(answered_s))


def ledger(queries: Sequence[Timestamped[Query]], responses: Sequence[Timestamped[Response]]) -> RunRecords:
    records = RunRecords(list(queries), list(responses))
    records.sizes.update({"queries": len(queries), "responses": len(responses)})
    return records


def exam(users: int = 45, *, gain: float = 0.2, seed: int = 0) -> list[Graded]:
    """Three questions per user and domain; each answer is right with its arm's probability, which grows by `gain`."""
    rng = random.Random(seed)
    graded = []
    for user in (f"u{number:04d}" for number in range(users)):
        for domain, options, right, wrong, chance in (
            ("movie_tag", MOVIE_TAGS, "comedy", "romance", 0.45),
            ("product_rating", STARS, "4", "2", 0.7),
            ("tweet_paraphrase", (), "ugh my phone is super slow lol", "My phone is very slow", 0.3),
        ):
            for _ in range(3):
                draft, before, after = (right if rng.random() < share else wrong for share in (chance, chance + gain / 8, chance + gain))
                graded.append(Graded(domain, user, options, right, draft, before, after))
    return graded


@cache
def report(*, gain: float = 0.2) -> DemoReport:
    """A synthetic report with every field filled."""
    rng = random.Random(1)
    counts = RecordCounts(
        interactions=8_730,
        queries=5_412,
        responses=5_412,
        feedback=4_050,
        outcomes=4_050,
        trajectories=2_610,
        model_events=2,
        dead_letters={"interactions": 0, "queries": 0},
        unreadable=0,
        lost=0,
        duplicated=0,
    )
    quality = judge(exam(gain=gain))
    names = ("start", "history", "learn", "first exam", "teach", "train", "swap", "second exam", "stop", "count")
    lengths = (48, 31, 92, 22, 14, 214, 9, 21, 8, 12)
    phases, start = [], 0.0
    for name, seconds in zip(names, lengths, strict=True):
        queries = 900 if name in ("learn", "first exam", "train", "swap", "second exam") else 0
        phases.append(PhaseFigures(name=name, started_s=start, seconds=seconds, cpu_s=seconds * 1.6, queries=queries, answers_per_s=queries / seconds))
        start += seconds
    served = []
    for second in range(79, 452):
        rate = 42 if second < 193 or second > 421 else 4
        old = second < 418
        served.append(SecondOfAnswers(second=second, answers={"1" if old else "2": rate + rng.randint(-3, 3), "none": rng.randint(0, 2)}))
    swap = SwapFigures(
        from_version="1",
        to_version="2",
        at=at(417),
        in_flight=31,
        open_queries=64,
        dropped=0,
        mixed_version=0,
        checked=96,
        unexplained=0,
        event_to_first_answer_s=2.4,
        waited_ms=640,
        load_ms=38,
    )
    rewards = tuple(
        RewardPoint(step=step, stage=step // 8, k=2 + step // 8, reward=0.7 + 0.002 * step + rng.uniform(-0.05, 0.05), kl=0.01, entropy=0.1, signal_share=0.6)
        for step in range(40)
    )
    models = (
        _model("1", None, None),
        _model("2", "1", "sha256:" + "5e" * 32),
    )
    latencies = [Timing(rng.uniform(8, 40), rng.uniform(4, 20), rng.uniform(60, 400), rng.uniform(500, 1800)) for _ in range(400)]
    latency = summarize(latencies)
    assert latency
    statuses = {"personalized": 5_120, "unparsable": 280, "no_history": 12}
    sample = ExamSample(
        domain="tweet_paraphrase",
        user="u0007",
        query="my phone be slow today",
        draft="My phone is very slow today.",
        history=("the bus be long again => ugh the bus is super long again lol", "this song be great => ugh this song is super great lol"),
        before="My phone is very slow today.",
        after="ugh my phone is super slow today lol",
        truth="ugh my phone is super slow today lol",
    )
    return DemoReport(
        ok=True,
        started_at=NOON,
        short=False,
        seed=0,
        machine=Machine(cores=2, memory_mb=8_192, system="Linux x86_64"),
        counts=counts,
        quality=quality,
        models=models,
        swap=(swap,),
        latency_ms=latency,
        latency_phase="train",
        latency_ms_by_phase={"learn": latency, "first exam": latency, "train": latency, "second exam": latency},
        seconds={phase.name: phase.seconds for phase in phases} | {"total": start},
        phases=tuple(phases),
        served=tuple(served),
        promotion=(
            PromotionStep(version="1", before="gated", after="champion", at_s=-2.0, reason="the shipped checkpoint, nothing is trained yet"),
            PromotionStep(version="2", before="registered", after="gated", at_s=410.0, reason="better than version 1"),
            PromotionStep(version="2", before="canary", after="champion", at_s=415.2, reason="better for its users"),
        ),
        moments=(
            TimelineEvent(name="version 2: champion", at_s=415.2),
            TimelineEvent(name="swap", at_s=417.0),
            TimelineEvent(name="first answer of version 2", at_s=417.6),
        ),
        statuses=statuses,
        statuses_by_version={"1": {"personalized": 3_900, "unparsable": 260}, "2": {"personalized": 1_220, "unparsable": 20}, "none": {"no_history": 12}},
        rewards=rewards,
        sft_steps=200,
        sft_losses=tuple(2.5 / (1 + 0.1 * step) + rng.uniform(-0.05, 0.05) for step in range(200)),
        samples=(sample, sample.model_copy(update={"domain": "movie_tag", "query": "a <b>quiet</b> monk breaks into a vault, with dread"})),
        peak_memory_mb=4_321,
        versions={"python": "3.11.9", "kafka": "4.3.1", "torch": "2.13.0", "vllm": "0.31.0"},
        settings={"reflection.k": 4, "trainer.rl.steps": 40, "trainer.holdout_share": 0.3},
        findings=findings(counts, quality, models, (swap,), rewards, statuses),
    )


def _model(version: str, parent: str | None, dataset: str | None) -> VersionFigures:
    return VersionFigures(
        name="retouch-reflector",
        version=version,
        alias="champion" if parent else None,
        digest="sha256:" + ("ab" if parent else "cd") * 32,
        parent=parent,
        offset_ranges={"trajectories": {"0": (0, 640), "1": (0, 655)}, "outcomes": {"0": (0, 1001), "1": (0, 1020)}} if parent else {},
        dataset_digest=dataset,
        seconds={"collect": 3.0, "sft": 31.0, "rl": 118.0, "evaluate": 22.0, "register": 1.0} if parent else {},
        decision="promoted, the held-out users' score is 0.181 higher [0.150, 0.212]" if parent else None,
    )
