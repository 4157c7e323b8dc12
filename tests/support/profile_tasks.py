"""Profile tasks and history items for tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from schemas.contexts import HistoryItem
from schemas.ids import derive
from schemas.positions import Source
from schemas.profiles import ProfileTask, SummaryWork
from schemas.tasks import Task

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def history_items(pairs: Sequence[tuple[str, str]]) -> tuple[HistoryItem, ...]:
    """Items of content and response, a day apart."""
    return tuple(
        HistoryItem(
            interaction_id=derive("test-item", number),
            content=content,
            response=response,
            occurred_at=NOW + timedelta(days=number),
            score=0.5,
            source=Source(topic="interactions", partition=0, offset=number),
        )
        for number, (content, response) in enumerate(pairs)
    )


def summary_task(task: Task, pairs: Sequence[tuple[str, str]], domain: str = "movie_tag") -> ProfileTask:
    items = history_items(pairs)
    work = SummaryWork(task=task, items=items, count=len(items), until=items[-1].occurred_at)
    return ProfileTask.summary("acme", "ada", domain, work)


def summary_work(task: ProfileTask) -> SummaryWork:
    assert isinstance(task.work, SummaryWork)
    return task.work
