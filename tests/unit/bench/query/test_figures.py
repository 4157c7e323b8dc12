"""Figures, targets and causes of `retouch bench query`, from given messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.ingest.bare_index import BareJob, fill
from bench.query.answers import ReadMessage, by_query
from bench.query.command import lines, run
from bench.query.drafts import figures, percentiles
from bench.query.load import Sent, draft, question
from bench.query.picture import draw
from bench.query.pipeline import HOPS, RETRIEVAL, TO_BASE
from bench.query.pipeline import figures as pipeline_figures
from bench.query.plan import FULL
from bench.query.searches import SearchJob, SearchTimes, search
from bench.query.searches import figures as search_figures
from bench.query.targets import LOADED, OVERHEAD, RETRIEVE, causes, targets
from bench.workers.answers import ReadRecord
from infra.errors import BadSetting
from infra.settings import load
from schemas.topics import CONTEXTS, DRAFTS, RESPONSES

SPREAD = {"count": 10, "mean": 5.0, "p50": 4.0, "p90": 6.0, "p99": 8.0, "max": 9.0}


def context(id: str, retrieve_ms: float = 3.0, items: int = 6) -> dict[str, Any]:
    return {"draft": {"query": {"query_id": id}}, "retrieve_ms": retrieve_ms, "items": [{}] * items}


def arm(context_p99: float = 20.0, retrieve_p99: float = 8.0, lost: int = 0, without_items: int = 0) -> dict[str, Any]:
    return {
        "lost": lost,
        "without_items": without_items,
        "context_ms": SPREAD | {"p99": context_p99},
        "retrieve_ms": SPREAD | {"p99": retrieve_p99},
        "context_percentiles_ms": [1.0, 2.0],
        "retrieve_percentiles_ms": [1.0, 2.0],
    }


def hops(commit_ms: int, p50: float, p99: float) -> dict[str, Any]:
    by_hop = {hop: SPREAD | {"p50": float(number)} for number, hop in enumerate(HOPS)}
    return {"commit_every_ms": commit_ms, "rate_per_s": 50.0, "lost": 0, "overhead_ms": SPREAD | {"p50": p50, "p99": p99}, "hops_ms": by_hop}


def measured(**changed: Any) -> dict[str, Any]:
    bare = search_figures(SearchTimes(1.0, 300_000, [5.0], [1.0]))
    loaded = arm() | {"history": {"events": 10, "per_s": 1_000.0, "left": 5}}
    found = {
        "points": 300_000,
        "bare_index": bare,
        "restarted": arm(),
        "idle": arm(),
        "loaded": loaded,
        "pipeline": [hops(50, 30.0, 90.0), hops(5, 20.0, 60.0)],
    }
    return found | changed


def missed(figures: dict[str, Any]) -> list[str]:
    return [target.name for target in targets(figures) if not target.met]


def test_only_messages_of_the_run_count_and_only_the_first_of_a_query() -> None:
    records = [ReadRecord(at, 0, 0, json.dumps(context(id)).encode()) for at, id in ((1.0, "earlier"), (2.0, "a"), (3.0, "a"), (4.0, "b"))]
    assert {id: each.visible_s for id, each in by_query(CONTEXTS.name, records, {"a", "b", "c"}).items()} == {"a": 2.0, "b": 4.0}


def test_latency_is_from_sent_to_visible_and_a_missing_context_is_lost() -> None:
    sent = Sent({"a": 10.0, "b": 11.0, "c": 12.0, "d": 13.0})
    contexts = {"a": ReadMessage(10.02, context("a")), "b": ReadMessage(11.5, context("b")), "c": ReadMessage(12.04, context("c", 7.0, items=0))}
    found = figures(sent.after(10.0, 13.0), contexts)
    assert (found["sent"], found["lost"], found["without_items"]) == (3, 0, 1)
    assert found["context_ms"]["max"] == pytest.approx(500.0) and found["retrieve_ms"]["max"] == 7.0
    assert figures(sent.after(13.0), contexts)["lost"] == 1
    assert figures(sent.after(13.0), contexts)["context_ms"] is None


def test_percentiles_begin_with_the_least_and_end_with_the_most() -> None:
    found = percentiles([3.0, 1.0, 2.0])
    assert (len(found), found[0], found[-1]) == (101, 1.0, 3.0)
    assert percentiles([]) == []


def test_the_hops_of_a_question_add_up_to_its_time_without_the_calls() -> None:
    response = {"query_id": "a", "status": "personalized", "reasoning": "100.25 100.30"}
    found = {
        DRAFTS.name: {"a": ReadMessage(100.12, {"answer": "100.01 100.06"})},
        CONTEXTS.name: {"a": ReadMessage(100.20, context("a"))},
        RESPONSES.name: {"a": ReadMessage(100.40, response), "b": ReadMessage(101.0, response | {"status": "index_away"})},
    }
    measured = pipeline_figures(Sent({"a": 100.0, "b": 100.5}), found)
    assert (measured["asked"], measured["lost"], measured["others"]) == (2, 1, 0)
    assert measured["overhead_ms"]["p50"] == pytest.approx(400 - 50 - 50, abs=0.01)
    assert measured["hops_ms"][TO_BASE]["p50"] == pytest.approx(10.0, abs=0.01)
    assert measured["hops_ms"][RETRIEVAL]["p50"] == pytest.approx(80.0, abs=0.01)


def test_each_target_is_missed_by_its_own_figure_and_has_a_cause() -> None:
    assert not missed(measured()) and not causes(measured(), [])
    for changed, name, text in (
        ({"idle": arm(retrieve_p99=10.0)}, RETRIEVE, "The index alone: a search takes 1.0 ms"),
        ({"restarted": arm(retrieve_p99=11.0)}, RETRIEVE, "right after a restart 4.0 ms (p99 11.0)"),
        ({"loaded": arm(context_p99=41.0) | {"history": {"per_s": 900.0}}}, LOADED, "While 900 events a second stream in"),
        ({"pipeline": [hops(50, 41.0, 90.0), hops(5, 20.0, 60.0)]}, OVERHEAD, "with 5 the overhead is 20.0 ms"),
        ({"pipeline": [hops(50, 30.0, 151.0), hops(5, 20.0, 60.0)]}, OVERHEAD, f"Hops by their p50 in ms: {HOPS[-1]} 4.0"),
    ):
        figures = measured(**changed)
        (only,) = missed(figures)
        assert only.startswith(name)
        (cause,) = causes(figures, [only])
        assert text in cause
    assert missed(measured(loaded=arm(lost=1) | {"history": {"per_s": 1.0}})) == ["drafts and questions without their answer"]
    assert missed(measured(idle=arm(without_items=1))) == ["contexts without items"]


def test_figures_without_any_answer_are_not_measured_and_not_met() -> None:
    empty = {"context_ms": None, "retrieve_ms": None, "lost": 3}
    figures = measured(idle=arm() | empty)
    assert [target.measured for target in targets(figures)][:3] == [None, 8.0, None]
    assert any("an unknown time" in cause for cause in causes(figures, missed(figures)))


async def test_the_bare_index_is_searched_for_users_that_the_stream_has_indexed(tmp_path: Path) -> None:
    await fill(BareJob(tmp_path, points=200, users=20, batch=100))
    times = await search(SearchJob(tmp_path / "index", users=20, first=3, later=40))
    assert (times.points, len(times.first_ms), len(times.later_ms)) == (200, 3, 40)
    assert min(times.first_ms + times.later_ms) > 0


def test_drafts_and_questions_are_of_all_users_of_the_history() -> None:
    assert len({question(number, FULL.users).user for number in range(FULL.users)}) == FULL.users
    assert draft(1, 10).query.user == question(1, 10).user


def test_an_index_on_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="QDRANT_URL"):
        run(load().changed(index={"url": "http://127.0.0.1:6333"}), tmp_path)


def test_the_report_is_told_in_lines_and_drawn(tmp_path: Path) -> None:
    report = measured() | {
        "started_at": "2026-12-01T00:00:00",
        "cores": 2,
        "load_average_before": 0.1,
        "seconds": 1.0,
        "targets": [target.to_json() for target in targets(measured())],
        "causes": [],
    }
    text = "\n".join(lines(report, tmp_path))
    assert "history beside the drafts: 1000 events/s" in text and "commits every 5 ms: overhead p50 20.0, p99 60.0 ms" in text
    draw(report, tmp_path / "query.png")
    assert (tmp_path / "query.png").stat().st_size > 10_000
