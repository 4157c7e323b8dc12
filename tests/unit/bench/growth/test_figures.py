"""Plan, targets and report of `retouch bench growth`, and the fill of a small index."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.growth.command import GrowthOptions, check_space, lines, run
from bench.growth.fill import FillJob, fill
from bench.growth.picture import draw
from bench.growth.plan import HEAVY_USER, GrowthPlan
from bench.growth.targets import per_million, targets
from bench.reporting import report_head, verdict
from infra.errors import CannotContinue
from infra.settings import load

SMALL = GrowthPlan(items=10_000, batch=64, searches=20, heavy_searches=5)


def size(items: int, event_ms: float = 0.2, average_ms: float = 0.1, heavy_ms: float = 0.5) -> dict[str, Any]:
    spread = {"count": 9, "mean": 0.2, "p50": 0.2, "p90": 0.3, "p99": 0.4, "max": 0.5}
    return {
        "size": items,
        "events": items // 2,
        "cpu_ms_per_event": event_ms,
        "events_per_s": 4_000.0,
        "average": {"ms": spread, "cpu_ms": average_ms},
        "heavy": {"ms": spread, "cpu_ms": heavy_ms},
        "resident_mb": 100.0 + items / 500,
        "anonymous_mb": 50.0 + items / 1_000,
        "disk_bytes": 4_096 * items,
    }


def test_users_of_average_history_have_equally_many_items_at_each_size() -> None:
    plan = GrowthPlan()
    assert plan.sizes == (10_000, 100_000, 1_000_000)
    held = Counter(plan.user(number) for number in range(plan.sizes[1]))
    assert held[HEAVY_USER] == plan.heavy == 2_000
    assert {held[user] for user in plan.users(plan.sizes[0])} == {held[user] for user in plan.users(plan.sizes[1])} == {plan.per_user}
    assert len(plan.users(plan.sizes[1])) > 10 * len(plan.users(plan.sizes[0]))


def test_items_are_the_same_whether_they_are_made_at_once_or_in_parts() -> None:
    whole = list(SMALL.interactions(0, 50))
    assert whole == [*SMALL.interactions(0, 20), *SMALL.interactions(20, 50)]
    assert len({item.interaction_id for item in whole}) == 50


def test_a_window_is_a_tenth_of_the_events_and_not_too_few() -> None:
    plan = GrowthPlan()
    assert [plan.window(each) for each in plan.sizes] == [5_000, 10_000, 100_000]


def test_each_cost_has_its_own_target() -> None:
    first = size(10_000)
    assert all(target.met for target in targets([first, size(1_000_000, 0.22, 0.11, 0.55)]))
    for name, grown in (("event", size(1_000_000, event_ms=0.23)), ("average", size(1_000_000, average_ms=0.12)), ("heavy", size(1_000_000, heavy_ms=0.6))):
        (missed,) = [target.name for target in targets([first, grown]) if not target.met]
        assert name in missed


def test_memory_and_disk_of_a_million_items_follow_from_the_growth() -> None:
    assert per_million([size(10_000), size(100_000)]) == {"resident_mb": 2_000.0, "anonymous_mb": 1_000.0, "disk_mb": 3_906.2}


def test_a_disk_with_too_little_space_is_refused_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_space(tmp_path, SMALL)
    with pytest.raises(CannotContinue, match=r"MB are free.*choose another --out"):
        run(load(), GrowthOptions(tmp_path, 10**12))
    assert not (tmp_path / "growth.json").exists()


def test_the_report_is_drawn_and_has_a_line_for_each_size(tmp_path: Path) -> None:
    sizes = [size(10_000), size(100_000), size(1_000_000)]
    first = {"ms": sizes[0]["average"]["ms"], "cpu_ms": 0.2}
    reopened = [{"size": each["size"], "open_s": 0.5, "resident_mb": 300.0, "first_searches": first} for each in sizes]
    report = report_head("growth") | {"sizes": sizes, "reopened": reopened, "per_million": per_million(sizes), "seconds": 1.0} | verdict(targets(sizes))
    text = lines(report, tmp_path)
    assert [line.split(":")[0] for line in text[:3]] == ["10000 items", "100000 items", "1000000 items"]
    assert any("1000000 items reopened in 0.5 s with 300 MB" in line for line in text)
    draw(report, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_a_step_fills_the_index_and_the_next_one_opens_it(tmp_path: Path) -> None:
    first = asyncio.run(fill(FillJob(tmp_path / "index", SMALL, 0, SMALL.smallest)))
    assert first.opened is None and first.filled is not None
    assert (first.filled.size, first.filled.events) == (100, 50)
    assert first.filled.cpu_ms_per_event > 0 and first.filled.disk_bytes > 0
    assert asdict(first.filled.heavy)["ms"]["count"] == 5
    second = asyncio.run(fill(FillJob(tmp_path / "index", SMALL, SMALL.smallest, SMALL.smallest)))
    assert second.filled is None and second.opened is not None
    assert second.opened.size == 100 and second.opened.first_searches.cpu_ms > 0
