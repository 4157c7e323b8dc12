"""Answers per second, by version."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime

from bench.demo.records import Timestamped
from bench.demo.report import SecondOfAnswers
from schemas.responses import Response

#: Stands for the version of an answer without a reflection model.
BASE_ONLY = "none"


def version_of(response: Response) -> str:
    model = response.provenance.model
    return model.version if model else BASE_ONLY


def per_second(responses: Iterable[Timestamped[Response]], start: datetime) -> tuple[SecondOfAnswers, ...]:
    """Answers per second since `start`, by version; seconds without answers are left out."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for seen in responses:
        counts[int((seen.at - start).total_seconds())][version_of(seen.message)] += 1
    return tuple(SecondOfAnswers(second=second, answers=dict(sorted(counts[second].items()))) for second in sorted(counts))
