"""Cells of a comparison of strategies, as `streams.quality` publishes them, computed from single answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from schemas.experiments import Arm
from schemas.quality import Quality, comparison_id
from schemas.strategies import Strategy
from tests.support.quality_cells import AT, ScoredAnswer, cells

COMPARISON = "autumn"


def comparison_cells(
    answers: Mapping[Strategy, Sequence[ScoredAnswer]], name: str = COMPARISON, partitions: int = 2, ended_at: datetime = AT + timedelta(hours=1)
) -> list[Quality]:
    """The cells of every strategy, partition and domain. Users have other numbers in each strategy."""
    facts = {"name": "", "version": "", "experiment": comparison_id(name), "comparison": name, "ended_at": ended_at}
    every = ((strategy, cell) for strategy, own in answers.items() for cell in cells(Arm.CHAMPION, own, partitions))
    return [cell.model_copy(update={**facts, "strategy": strategy}) for strategy, cell in every]
