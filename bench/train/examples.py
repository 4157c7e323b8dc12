"""The examples of one measurement: SFT examples and cases for training, cases for choices, cases for evaluation.

Trajectories come from the template teacher through the teacher worker's handler, with its live checks.
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
    """`by_query` (without training cases) and `world_truths` are by case id; `world_truths` is empty for real data."""

    title: str
    sft_examples: list[SftExample]
    training: list[QueryCase]
    dev: list[QueryCase]
    heldout: list[QueryCase]
    by_query: Mapping[str, tuple[HistoryItem, ...]]
    world_truths: Mapping[str, WorldTruth]
    counts: Mapping[str, int]


def build(source: SourceData, settings: Settings, stop: threading.Event) -> Examples:
    """Splits by `schemas.ids.is_held_out` and the split of each question. Raises CannotContinue if a split is empty."""
    answered = make_outcomes(source, settings, stop)
    cases: dict[Split, list[QueryCase]] = {split: [] for split in Split}
    teachable: list[Outcome] = []
    by_query: dict[str, tuple[HistoryItem, ...]] = {}
    world_truths: dict[str, WorldTruth] = {}
    counts: Counter[str] = Counter()
    for row in answered:
        case = case_of(row.outcome)
        if isinstance(case, Ineligible):
            counts[f"unusable.{case}"] += 1
            continue
        cases[row.question.split].append(case)
        if row.question.split is not Split.TRAINING:
            by_query[case.case_id] = row.by_query
        if row.question.world_truth is not None:
            world_truths[case.case_id] = row.question.world_truth
        if row.question.split is Split.TRAINING:
            teachable.append(row.outcome)
    sft_examples = _sft_examples(teachable, source.holdout_share, settings)
    counts |= {"interactions": len(source.interactions), "lessons": len(sft_examples)} | {split.value: len(cases[split]) for split in Split}
    counts |= {f"{split.value}_users": len({case.user for case in cases[split]}) for split in Split}
    if not sft_examples or not all(cases.values()):
        raise CannotContinue(f"nothing to measure with: {dict(counts)}")
    return Examples(source.title, sft_examples, cases[Split.TRAINING], cases[Split.DEV], cases[Split.HELDOUT], by_query, world_truths, dict(counts))


def _sft_examples(outcomes: Sequence[Outcome], holdout_share: float, settings: Settings) -> list[SftExample]:
    trajectories = asyncio.run(_teach(outcomes, TeacherHandler(TemplateTeacher(), holdout_share, ReasoningLength.from_settings(settings.teacher))))
    examples = (sft_example_of(trajectory) for trajectory in trajectories)
    return list({sft_example_key(example): example for example in examples if not isinstance(example, Ineligible)}.values())


async def _teach(outcomes: Iterable[Outcome], instruction: TeacherHandler) -> list[Trajectory]:
    trajectories = []
    for offset, outcome in enumerate(outcomes):
        envelope = read_envelope(envelope_headers(outcome, id=outcome.outcome_id, source="/bench/train"))
        produced = await instruction(Incoming(outcome, envelope, Source(topic=OUTCOMES.name, partition=0, offset=offset)))
        trajectories += [output.message for output in produced if isinstance(output.message, Trajectory)]
    return trajectories
