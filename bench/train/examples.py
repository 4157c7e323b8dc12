"""The data of one measurement: lessons and cases that train, cases that choose, cases that judge.

Trajectories come from the template teacher through the teacher worker's own handler, so its checks are the live ones.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.train.outcomes import make_outcomes
from bench.train.source_data import SourceData, Split, WorldTruth
from infra.errors import CannotContinue
from infra.settings import Settings
from schemas.contexts import HistoryItem, Source
from schemas.eligibility import Ineligible
from schemas.envelope import envelope_headers, read_envelope
from schemas.outcomes import Outcome
from schemas.topics import OUTCOMES
from schemas.trajectories import Trajectory
from trainer.data.query_cases import QueryCase, SftExample, case_of, sft_example_key, sft_example_of
from workers.runtime.handler import Incoming
from workers.teacher.checks import ReasoningLength
from workers.teacher.handler import TeacherHandler
from workers.teacher.template import TemplateTeacher


@dataclass(frozen=True)
class Examples:
    """`by_query` (of cases that do not train) and `known` are keyed by case id; `known` is empty for real data."""

    title: str
    lessons: list[SftExample]
    training: list[QueryCase]
    dev: list[QueryCase]
    heldout: list[QueryCase]
    by_query: Mapping[str, tuple[HistoryItem, ...]]
    known: Mapping[str, WorldTruth]
    counts: Mapping[str, int]


def build(material: SourceData, settings: Settings, stop: threading.Event) -> Examples:
    """Everything trains and judges as `schemas.ids.is_held_out` and the material's parts say. Raises CannotContinue where a part is empty."""
    answered = make_outcomes(material, settings, stop)
    cases: dict[Split, list[QueryCase]] = {part: [] for part in Split}
    teachable: list[Outcome] = []
    by_query: dict[str, tuple[HistoryItem, ...]] = {}
    known: dict[str, WorldTruth] = {}
    counts: Counter[str] = Counter()
    for one in answered:
        case = case_of(one.outcome)
        if isinstance(case, Ineligible):
            counts[f"unusable.{case}"] += 1
            continue
        cases[one.ask.part].append(case)
        if one.ask.part is not Split.TRAINING:
            by_query[case.case_id] = one.by_query
        if one.ask.known is not None:
            known[case.case_id] = one.ask.known
        if one.ask.part is Split.TRAINING:
            teachable.append(one.outcome)
    lessons = _lessons(teachable, material.holdout_share, settings)
    counts |= {"interactions": len(material.interactions), "lessons": len(lessons)} | {part.value: len(cases[part]) for part in Split}
    counts |= {f"{part.value}_users": len({case.user for case in cases[part]}) for part in Split}
    if not lessons or not all(cases.values()):
        raise CannotContinue(f"nothing to measure with: {dict(counts)}")
    return Examples(material.title, lessons, cases[Split.TRAINING], cases[Split.DEV], cases[Split.HELDOUT], by_query, known, dict(counts))


def _lessons(outcomes: Sequence[Outcome], holdout_share: float, settings: Settings) -> list[SftExample]:
    taught = asyncio.run(_teach(outcomes, TeacherHandler(TemplateTeacher(), holdout_share, ReasoningLength.from_settings(settings.teacher))))
    found = (sft_example_of(trajectory) for trajectory in taught)
    return list({sft_example_key(lesson): lesson for lesson in found if not isinstance(lesson, Ineligible)}.values())


async def _teach(outcomes: Iterable[Outcome], instruction: TeacherHandler) -> list[Trajectory]:
    taught = []
    for offset, outcome in enumerate(outcomes):
        envelope = read_envelope(envelope_headers(outcome, id=outcome.outcome_id, source="/bench/train"))
        produced = await instruction(Incoming(outcome, envelope, Source(topic=OUTCOMES.name, partition=0, offset=offset)))
        taught += [one.message for one in produced if isinstance(one.message, Trajectory)]
    return taught
