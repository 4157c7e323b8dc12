"""The cost of a trajectory before training: collected, selected, digested, stored as Parquet, read back, and turned into SFT examples.

Each size is measured in its own process, for its own peak memory. Every trajectory comes with its outcome, both of about 2.3 kB with six items,
50 per user; a third of the users is held out. Records are generated from a template while they are consumed; the time of the generation
is measured separately and subtracted.

    python -m bench.train.collection            1,000, 10,000 and 100,000 trajectories, as JSON
    python -m bench.train.collection --broker --size 10000      with the reading from Kafka, on its own broker
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from bench.costs import NOON, broker_with_topics, personalized_response, print_json
from infra.errors import CannotContinue
from infra.settings import load
from schemas.contexts import HistoryItem
from schemas.envelope import envelope_headers
from schemas.feedback import Feedback
from schemas.ids import derive
from schemas.outcomes import Outcome
from schemas.positions import Source
from schemas.queries import Query
from schemas.topics import OUTCOMES, TRAJECTORIES
from schemas.trajectories import Teacher, Trajectory

SIZES = (1_000, 10_000, 100_000)
#: Bound for one size; the largest takes half a minute on an idle core.
WITHIN_S = 900.0
WARM_UP = 2_000
ITEMS, USERS_PER, PARTITIONS = 6, 50, 4
#: Placeholder for the number of a record in the templates.
PLACEHOLDER = "7777777777"


@dataclass(frozen=True)
class CollectionCost:
    """Figures of one size. Times are microseconds per trajectory with its outcome; memory is the peak above the start of the process."""

    trajectories: int
    lessons: int
    collect_us: float  # read, checked, spooled, selected and digested
    write_us: float
    load_us: float  # verified
    lessons_us: float  # of one SFT example, when it is accessed
    total_us: float  # of the first three
    text_bytes: float  # per trajectory, of the selected text; on disk, not in memory
    memory_bytes: float  # per trajectory
    peak_rss_mb: float


@dataclass(frozen=True)
class CollectionCosts:
    """All sizes. `growth` is the cost per trajectory at the largest size, divided by the cost at the smallest."""

    costs: tuple[CollectionCost, ...]
    growth: float


def measure(sizes: Sequence[int] = SIZES) -> CollectionCosts:
    """Blocks; 100,000 trajectories take half a minute. Raises CannotContinue if a measuring process fails."""
    costs = tuple(_measure_in_own_process(size) for size in sizes)
    return CollectionCosts(costs, round(costs[-1].total_us / costs[0].total_us, 3))


def measure_here(size: int) -> CollectionCost:
    """Measures one size in this process, after a small warm-up. Its memory figure is valid only in a new process."""
    from trainer.data.collect import assemble
    from trainer.data.snapshot import load_snapshot, write_snapshot
    from trainer.learn.peak_memory import peak_rss_bytes

    making_s = _seconds(lambda: sum(1 for _ in records(size)))
    with tempfile.TemporaryDirectory() as scratch:
        settings = load(stack={"dir": scratch})
        load_snapshot(settings, write_snapshot(assemble({}, records(WARM_UP), settings.trainer, directory=Path(scratch)), settings, "bench").name)
        before = peak_rss_bytes()
        began = time.perf_counter()
        snapshot = assemble({}, records(size), settings.trainer, directory=Path(scratch))
        collect_s = time.perf_counter() - began - making_s
        write_s = _seconds(lambda: write_snapshot(snapshot, settings, "bench"))
        load_s = _seconds(lambda: load_snapshot(settings, snapshot.digest))
        examples = snapshot.sft_examples
        examples_s = _seconds(lambda: [len(example.items) for example in examples[:1000]])
    micro = 1e6 / size
    return CollectionCost(
        trajectories=size,
        lessons=len(examples),
        collect_us=round(collect_s * micro, 1),
        write_us=round(write_s * micro, 1),
        load_us=round(load_s * micro, 1),
        lessons_us=round(examples_s * 1e6 / min(1000, len(examples)), 1),
        total_us=round((collect_s + write_s + load_s) * micro, 1),
        text_bytes=round(sum(row.span.length for row in snapshot.rows) / size),
        memory_bytes=round((peak_rss_bytes() - before) / size),
        peak_rss_mb=round(peak_rss_bytes() / 2**20, 1),
    )


def measure_broker(size: int) -> float:
    """Microseconds per trajectory with its outcome, from a local broker with `PARTITIONS` partitions to the digest. Also blocks for the start of the broker."""
    from trainer.data.collect import collect

    with broker_with_topics(partitions=PARTITIONS) as (settings, to):
        for record in records(size):
            to.send(record.topic, value=record.value, headers=record.headers, partition=record.partition)
        to.close()
        return _seconds(lambda: collect(settings, threading.Event())) * 1e6 / size


def records(size: int) -> Iterator[Any]:
    """`size` outcomes and their trajectories, in the form of consumer records."""
    outcome = _outcome()
    trajectory = Trajectory(
        trajectory_id=UUID(f"{2:08x}-0000-5000-8000-00{PLACEHOLDER}"),
        outcome=outcome,
        example_id=outcome.response.context.items[0].interaction_id,
        reasoning=f"They keep it short and end with a full stop, as in item {PLACEHOLDER}.",
        teacher=Teacher(name="template"),
    )
    templates = [
        (topic.name, envelope_headers(message, id=1, source="/bench"), message.to_bytes())
        for topic, message in ((OUTCOMES, outcome), (TRAJECTORIES, trajectory))
    ]
    placeholder, users = PLACEHOLDER.encode(), max(20, size // USERS_PER)
    for number in range(size):
        user = b'"user":"u%d"' % (number * 7919 % users)
        for topic, headers, template in templates:
            value = template.replace(placeholder, b"%010d" % number).replace(b'"user":"u"', user)
            yield SimpleNamespace(topic=topic, partition=number % PARTITIONS, offset=number // PARTITIONS, headers=headers, value=value)


def _outcome() -> Outcome:
    query_id = derive("query", "bench")
    query = Query(
        query_id=query_id,
        tenant="bench",
        user="u",
        domain="movie_tag",
        text=f"A film about {PLACEHOLDER} and what came of it.",
        options=("a", "b"),
        asked_at=NOON,
    )
    items = tuple(
        HistoryItem(
            interaction_id=derive("item", index),
            content=f"A film about something else, which item {index} of {PLACEHOLDER} tells in a line or two.",
            response="b",
            occurred_at=NOON - timedelta(days=index + 1),
            score=0.9 - index / 10,
            source=Source(topic="interactions", partition=0, offset=index),
        )
        for index in range(ITEMS)
    )
    response = personalized_response(query, items, draft="a", answer="a")
    feedback = Feedback(feedback_id=query_id, query_id=query_id, tenant="bench", user="u", truth="b", occurred_at=NOON + timedelta(minutes=1))
    joined = Outcome.joined(response, feedback)
    return joined.model_copy(update={"outcome_id": UUID(f"{1:08x}-0000-5000-8000-00{PLACEHOLDER}")})


def _measure_in_own_process(size: int) -> CollectionCost:
    command = [sys.executable, "-m", "bench.train.collection", "--size", str(size)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    if result.returncode:
        raise CannotContinue(f"the measurement of {size} trajectories failed: {(result.stderr.strip().splitlines() or ['no output'])[-1]}")
    return CollectionCost(**json.loads(result.stdout))


def _seconds(body: Callable[[], object]) -> float:
    began = time.perf_counter()
    body()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.train.collection", description="Prints the cost of a trajectory as JSON.")
    parser.add_argument("--size", type=int, help="only this number of trajectories, in this process")
    parser.add_argument("--broker", action="store_true", help="only the collection, read from a local broker")
    flags = parser.parse_args()
    if flags.broker:
        size = flags.size or SIZES[1]
        figures: dict[str, Any] = {"trajectories": size, "broker_collect_us": round(measure_broker(size), 1)}
    else:
        figures = asdict(measure_here(flags.size) if flags.size else measure())
    print_json(figures)


if __name__ == "__main__":
    main()
