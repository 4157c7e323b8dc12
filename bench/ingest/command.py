"""`retouch bench ingest`: how fast history becomes retrievable, against the embedder alone, the index alone, and a peer in the same run.

The run starts its own broker in a temporary directory. `OUT` gets `ingest.json`, `ingest.png` and the processes' logs.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import machine, reporting
from bench.ingest import bare_index, engine, peer, picture, stream
from bench.ingest.neighbours import recall
from bench.ingest.plan import FULL, QUICK, EmbedderArm, IngestPlan, arms
from bench.ingest.targets import best_arm, causes, targets
from bench.ingest.texts import interactions, short, texts_of
from bench.workers.bench_stack import BenchStack, bench_stack
from infra.checkpoints.precision import processor_has_bfloat16
from infra.errors import BadSetting
from infra.settings import Settings
from infra.settings.models import Dtype
from streams.embedding.embedder import Matrix
from streams.service import HISTORY_CALLS

KIND = "retouch.bench-ingest.v1"
REPORT, PICTURE = "ingest.json", "ingest.png"
#: The process with vectors given.
GIVEN = ("-m", "bench.ingest.vectors_given")


@dataclass(frozen=True)
class IngestOptions:
    out: Path
    texts: Path | None = None
    quick: bool = False


def run(settings: Settings, options: IngestOptions, *, as_json: bool = False) -> int:
    """Blocks for minutes; call it from the main thread. Exit codes: 0 every target met, 1 one was missed.

    Raises CannotContinue if a step fails, and before the start if `out` cannot be written or the texts cannot be read; BadSetting for an embedder or an
    index that is a server.
    """
    check_local(settings)
    reporting.check_writable(options.out, REPORT, PICTURE)
    plan = QUICK if options.quick else FULL
    report = measure(settings, plan, texts_of(plan.texts, options.texts), options)
    picture.draw(report, options.out / PICTURE)
    return reporting.publish(report, options.out / REPORT, "\n".join(lines(report, options.out)), as_json)


def check_local(settings: Settings) -> None:
    """Raises BadSetting if embedder or index are not of this machine."""
    if settings.embedder.url:
        raise BadSetting("embedder.url: must not be set; this command measures models on this machine, and their engine's own rate")
    if settings.index.url:
        raise BadSetting("index.url (QDRANT_URL): must not be set; this command fills an embedded index of its own")


def measure(settings: Settings, plan: IngestPlan, texts: Sequence[str], options: IngestOptions) -> dict[str, Any]:
    """The whole report."""
    began, logs = time.monotonic(), options.out / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    head = reporting.report_head(KIND) | {
        "versions": reporting.package_versions("retouch", "python", "kafka", "faust", "aiokafka", "qdrant-edge", "sentence-transformers", "torch"),
        "plan": asdict(plan),
        "settings": settings.embedder.model_dump(mode="json", exclude={"api_key", "parameters"}),
        "texts": {"count": len(texts), "file": options.texts.name if options.texts else None, "mean_chars": round(sum(map(len, texts)) / len(texts), 1)},
        "processor_has_bfloat16": processor_has_bfloat16(),
        "cores": machine.cores(),
    }
    with tempfile.TemporaryDirectory(prefix="retouch-bench-") as state, bench_stack(settings, Path(state), logs.resolve()) as stack:
        figures = _figures(stack, plan, texts, Path(state))
    verdict = reporting.verdict(targets(figures))
    missed = [target["name"] for target in verdict["targets"] if not target["met"]]
    why = causes(figures | {"cores": machine.cores()}, missed, has_bfloat16=processor_has_bfloat16())
    return head | figures | verdict | {"causes": why, "seconds": round(time.monotonic() - began, 1)}


def _figures(stack: BenchStack, plan: IngestPlan, texts: Sequence[str], state: Path) -> dict[str, Any]:
    own_topics = stack.settings.changed(kafka={"topic_prefix": "embedded."})
    _timed("backlog", lambda: stream.fill_topic(own_topics, interactions(texts, _users(len(texts), plan))))
    measured, reference = [], None
    for arm in arms():
        figures, vectors = _timed(f"engine {arm.name}", partial(engine.measure, stack.settings, arm, texts, state / f"engine-{arm.name}", stack.logs))
        reference = vectors if reference is None else reference
        measured.append(_arm(stack, own_topics, plan, arm, len(texts), figures) | {"recall": _recall(arm, reference, vectors)})
    best = next(arm for arm in arms() if arm.name == best_arm(measured)["arm"])
    beside = _timed("peer", lambda: peer.measure(stack.settings, best, texts, state / "peer", stack.logs))
    share = round(best_arm(measured)["stream"]["per_s"] / beside.per_s, 3)
    given = _given(stack, plan, state)
    return {"arms": measured, "peer": asdict(beside) | {"processes": best.engines, "best_arm_share": share}, "vectors_given": given}


def _recall(arm: EmbedderArm, reference: Matrix, vectors: Matrix) -> float | None:
    return None if arm.dtype is Dtype.FLOAT32 else round(recall(reference, vectors), 4)


def _arm(stack: BenchStack, topics: Settings, plan: IngestPlan, arm: EmbedderArm, texts: int, alone: dict[str, Any]) -> dict[str, Any]:
    settings = topics.changed(embedder=arm.settings())
    samples = _timed(f"stream {arm.name}", lambda: stream.measure(stack, settings, arm.name, texts))
    figures = stream.steady(samples, plan.warm_share * texts, texts)
    return {
        "arm": arm.name,
        "processes": arm.processes,
        "dtype": arm.dtype.value,
        "engine": alone,
        "stream": figures | {"peak_mb": stream.peak_mb(samples), "timeline": stream.timeline(samples)},
        "of_engine": round(figures["per_s"] / alone["per_s"], 4),
    }


def _given(stack: BenchStack, plan: IngestPlan, state: Path) -> dict[str, Any]:
    settings = stack.settings.changed(kafka={"topic_prefix": "given."})
    users, batch = _users(plan.vectors, plan), HISTORY_CALLS * settings.embedder.batch_size
    _timed("backlog of short texts", lambda: stream.fill_topic(settings, interactions(short(plan.vectors), users)))
    samples = _timed("vectors given", lambda: stream.measure(stack, settings, "vectors-given", plan.vectors, GIVEN))
    job = bare_index.BareJob(state / "bare", plan.vectors, users, batch)
    bare = _timed("bare index", lambda: bare_index.measure(job, stack.logs))
    figures = stream.steady(samples, plan.early[0], plan.vectors)
    early, late = stream.steady(samples, *plan.early), stream.steady(samples, *plan.late)
    return {
        "events": plan.vectors,
        "stream": figures | {"peak_mb": stream.peak_mb(samples), "longest_pause_s": stream.longest_pause_s(samples), "timeline": stream.timeline(samples)},
        "bare_index": asdict(bare),
        "of_bare_index": round(figures["per_s"] / bare.per_s, 4),
        "growth": {
            "early": early,
            "late": late,
            "cpu_ratio": round(late["cpu_ms_per_event"] / early["cpu_ms_per_event"], 3),
            "bytes_per_item": stream.bytes_per_item(samples, plan.early[0]),
        },
    }


def _users(events: int, plan: IngestPlan) -> int:
    return max(1, events // plan.events_per_user)


def lines(report: dict[str, Any], out: Path) -> list[str]:
    """The report as text."""
    said = []
    for arm in report["arms"]:
        of, alone = arm["stream"], arm["engine"]
        said.append(
            f"{arm['arm']}: {of['per_s']:.0f} events/s, {arm['of_engine']:.2f} of its engine alone ({alone['per_s']:.0f}/s); "
            f"{of['cpu_ms_per_event']} ms of CPU an event, {of['peak_mb']} MB"
        )
    given, beside = report["vectors_given"], report["peer"]
    of, growth = given["stream"], given["growth"]
    return [
        *said,
        f"peer, {beside['processes']} processes of sentence-transformers and one bulk write: {beside['per_s']:.0f} texts/s",
        f"vectors given: {of['per_s']:.0f} events/s, {given['of_bare_index']:.2f} of the index alone ({given['bare_index']['per_s']:.0f}/s); "
        f"{of['cpu_ms_per_event']} ms of CPU an event, {of['peak_mb']} MB, {growth['bytes_per_item']} bytes an item",
        "",
        *reporting.target_lines(report),
        *report["causes"],
        "",
        f"{report['cores']} cores, load average {report['load_average_before']} before the run, {report['seconds']:.0f} s; {out / REPORT}, {out / PICTURE}",
    ]


_timed = partial(reporting.timed, "ingest")
