from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from infra.errors import RetryLater
from infra.telemetry.instruments import Distribution, Labels
from infra.telemetry.metrics import FRESHNESS, FRESHNESS_SLO
from schemas.records import ConsumedRecord
from schemas.topics import INTERACTIONS
from streams.history.freshness import MAX_DOMAINS, OLD_S, OTHER_DOMAINS, Freshness
from streams.history.processor import HistoryProcessor
from tests.support.streams_fakes import NOON, MemoryIndex, UnavailableIndex, WordEmbedder, consumed_record, interaction

NOW_S = NOON.timestamp()


@pytest.fixture(autouse=True)
def no_series(monkeypatch: pytest.MonkeyPatch) -> None:
    for metric in (FRESHNESS, FRESHNESS_SLO):
        monkeypatch.setattr(metric, "_series", {})


def history(*, slo_s: float = 10, filling_since: float | None = None, index: MemoryIndex | None = None) -> HistoryProcessor:
    freshness = Freshness(slo_s, filling_since, now=lambda: NOW_S)
    return HistoryProcessor(WordEmbedder(), index or MemoryIndex(), batch=200, freshness=freshness)


def record(name: str, age_s: float, *, domain: str = "movie_tag", offset: int = 0, days_ago: float = 0) -> ConsumedRecord:
    made = consumed_record(INTERACTIONS.name, interaction(name, domain=domain, at=NOON - timedelta(days=days_ago)), offset=offset)
    return replace(made, timestamp_ms=round((NOW_S - age_s) * 1000))


def ages() -> Mapping[Labels, Distribution]:
    return FRESHNESS.values()


def slo() -> dict[tuple[str, str], float]:
    return {(dict(labels)["domain"], dict(labels)["outcome"]): value for labels, value in FRESHNESS_SLO.values().items()}


async def test_the_age_of_a_record_is_measured_when_the_index_has_it() -> None:
    await history().handle([record("old_event", 4, days_ago=400), record("late", 40, offset=1), record("tweet", 1, offset=2, domain="tweet")])
    assert {dict(labels)["domain"]: (each.count, each.sum) for labels, each in ages().items()} == {"movie_tag": (2, 44.0), "tweet": (1, 1.0)}
    assert slo() == {("movie_tag", "met"): 1, ("movie_tag", "missed"): 1, ("tweet", "met"): 1}


async def test_nothing_is_measured_before_the_index_has_it_nor_for_a_repeat() -> None:
    index = UnavailableIndex(1)
    processor, records = history(index=index), [record("sea", 1)]
    with pytest.raises(RetryLater):
        await processor.handle(records)
    assert not ages()
    await processor.handle(records)
    await processor.handle([record("sea", 1, offset=7)])
    assert slo() == {("movie_tag", "met"): 1}


@pytest.mark.parametrize(
    ("age_s", "filling_since", "is_measured"),
    [(OLD_S + 1, None, False), (OLD_S - 1, None, True), (60, NOW_S - 30, False), (20, NOW_S - 30, True), (-5, None, True), (NOW_S + 1, None, False)],
    ids=["copy of an old log", "down for hours", "before the filling", "sent while filling", "a clock ahead", "no timestamp"],
)
async def test_records_of_old_logs_are_not_measured(age_s: float, filling_since: float | None, is_measured: bool) -> None:
    await history(filling_since=filling_since).handle([record("sea", age_s)])
    assert bool(ages()) is is_measured
    assert all(each.min >= 0 for each in ages().values())


async def test_the_number_of_domains_with_own_series_is_bounded() -> None:
    domains = [f"domain_{n}" for n in range(MAX_DOMAINS + 3)]
    await history().handle([record(domain, 1, domain=domain, offset=n) for n, domain in enumerate([*domains, domains[0]])])
    assert len(ages()) == MAX_DOMAINS + 1
    counts = {dict(labels)["domain"]: each.count for labels, each in ages().items()}
    assert counts[OTHER_DOMAINS] == 3
