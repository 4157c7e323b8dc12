"""Figures, targets and reports of `retouch bench soak`, from given samples and lines."""

from __future__ import annotations

import itertools
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.reporting import report_head
from bench.soak import command
from bench.soak.figures import (
    ITEM_BYTES,
    OPEN_S,
    Answers,
    AskedQuestion,
    Sample,
    answer_figures,
    answers_of,
    capacity_figures,
    handled_share,
    lag_figures,
    latency_timeline,
    medians,
    process_figures,
)
from bench.soak.lag import TopicLag
from bench.soak.load import due_times, new_interactions
from bench.soak.picture import draw
from bench.soak.plan import FULL, QUICK, SoakPlan
from bench.soak.run import SoakRun
from bench.soak.targets import targets
from bench.usage import TreeUse, tree_use
from infra.errors import BadSetting, CannotContinue
from infra.settings import Settings, load
from schemas.topics import consumer_group
from traffic.plan import TrafficPlan

MB = 2**20
HISTORY = consumer_group("streams"), "interactions"
#: A third of the run, in samples.
THIRD = 10


def use(pss_mb: float = 100, files: int = 20) -> TreeUse:
    return TreeUse(round(pss_mb * MB), round(2 * pss_mb * MB), files, 5)


def samples(
    memory: Callable[[int], float] = lambda at: 100, files: Callable[[int], int] = lambda at: 20, lag: Callable[[int], int] = lambda at: 4, restarts: int = 0
) -> list[Sample]:
    """One a second. The process `base`, and `streams`, which indexes 100 items a second and holds ITEM_BYTES of each."""
    return [
        Sample(
            1_000.0 + at,
            {"base": use(memory(at), files(at)), "streams": use(500 + 100 * at * ITEM_BYTES / MB)},
            {HISTORY: TopicLag(100 * at + 50, lag(at))},
            restarts,
        )
        for at in range(3 * THIRD)
    ]


def answered(latencies_s: list[float]) -> list[AskedQuestion]:
    """One question a second from 1,000 s on."""
    return [AskedQuestion(1_000.0 + at, 1_000.001 + at, 1_000.0 + at + latency_s) for at, latency_s in enumerate(latencies_s)]


def figures(of: list[Sample], latencies_s: list[float] | None = None, repeated: int = 0) -> dict[str, Any]:
    found = answered(latencies_s or [0.1] * 3 * THIRD)
    answers = Answers(found, repeated, {"personalized": len(found)})
    return {
        "answers": answer_figures(answers, 1_000.0, 1_000.0 + 3 * THIRD, was_interrupted=False),
        "processes": process_figures(of, "interactions"),
        "lags": lag_figures(of),
        "restarts": of[-1].restarts,
    }


def missed(of: dict[str, Any]) -> list[str]:
    return [target.name for target in targets(of) if not target.met]


def line(*row: object) -> str:
    return json.dumps(row) + "\n"


def test_answers_are_matched_with_their_questions_and_repeats_are_counted() -> None:
    rows = [
        line("asked", "a", 10.0, 10.5), line("asked", "b", 11.0, 11.0), line("answered", "a", 12.0, "personalized"),
        line("answered", "a", 14.0, "base_only"), line("answered", "of another round", 14.0, "personalized"), '["answered", "b", 1',
    ]  # fmt: skip
    found = answers_of(rows)
    assert found.questions == [AskedQuestion(10.0, 10.5, 12.0), AskedQuestion(11.0, 11.0, None)]
    assert found.questions[0].latency_ms == 2_000.0  # from the due time
    assert (found.repeated, found.statuses) == (1, {"personalized": 1})


def test_a_young_question_of_an_interrupted_run_is_open_and_an_old_one_lost() -> None:
    end_s = 1_000.0 + 2 * OPEN_S
    answers = Answers([AskedQuestion(1_000.0, 1_000.0, None), AskedQuestion(end_s - 1, end_s - 1, None)], 0, {})
    interrupted = answer_figures(answers, 1_000.0, end_s, was_interrupted=True)
    assert (interrupted["lost"], interrupted["open"]) == (1, 1)
    complete = answer_figures(answers, 1_000.0, end_s, was_interrupted=False)
    assert (complete["lost"], complete["open"], complete["p99_ratio"]) == (2, 0, None)


def test_latency_over_time_counts_answers_by_their_due_time() -> None:
    bins = latency_timeline(answered([0.1] * 10 + [0.3] * 10), 1_000.0, 1_020.0)
    assert [(each["at_s"], each["count"], each["p99_ms"]) for each in bins] == [(5.0, 10, 100.0), (15.0, 10, 300.0)]


def test_medians_are_of_the_first_and_last_third_and_ignore_peaks() -> None:
    found = medians(samples(lambda at: 900 if at in (3, 25) else 100 + at), lambda sample: sample.processes["base"].pss_bytes / MB)
    assert found is not None
    assert found[0] == pytest.approx(105, abs=1.5)
    assert found[1] == pytest.approx(125, abs=1.5)
    assert medians([], lambda sample: 0.0) is None


def test_a_steady_run_meets_every_target() -> None:
    assert missed(figures(samples())) == []


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (figures(samples(lambda at: 100 + at)), "memory"),
        (figures(samples(files=lambda at: 20 + at)), "open files"),
        (figures(samples(lag=lambda at: 200 * at)), "longest lag"),
        (figures(samples(restarts=1)), "restarts"),
        (figures(samples(), [0.1] * 2 * THIRD + [0.2] * THIRD), "p99"),
        (figures(samples(), [0.1] * 3 * THIRD, repeated=1), "answers beyond the first"),
    ],
)
def test_each_kind_of_growth_misses_its_target_alone(found: dict[str, Any], name: str) -> None:
    (only,) = missed(found)
    assert only.startswith(name)


def test_a_lost_answer_misses_its_target() -> None:
    found = figures(samples())
    found["answers"]["lost"] = 1
    assert missed(found) == ["questions without an answer"]


def test_memory_of_indexed_history_is_no_growth_of_the_streams_process() -> None:
    found = process_figures(samples(), "interactions")["streams"]
    assert found["pss_mb"][1] > found["pss_mb"][0] + 4
    assert found["items"] == pytest.approx(2_000, abs=50)
    assert found["memory_ratio"] == pytest.approx(1.0, abs=0.002)


def test_lag_is_in_seconds_of_the_inflow_and_one_record_of_a_slow_topic_is_one() -> None:
    (found,) = lag_figures(samples(lag=lambda at: 250))
    assert (found["inflow_per_s"], found["last_third"], found["last_third_s"]) == (100.0, 250.0, 2.5)
    slow = [Sample(float(at), {}, {HISTORY: TopicLag(7, 1)}, 0) for at in range(9)]
    assert lag_figures(slow)[0]["last_third_s"] == 1.0


def test_capacity_is_limited_by_the_group_that_handles_least_of_its_inflow() -> None:
    slow = consumer_group("teacher"), "outcomes"
    quiet = consumer_group("profiles"), "profile-tasks"
    before = Sample(0.0, {}, {HISTORY: TopicLag(100, 0), slow: TopicLag(100, 0), quiet: TopicLag(1, 0)}, 0)
    after = Sample(10.0, {}, {HISTORY: TopicLag(300, 10), slow: TopicLag(200, 50), quiet: TopicLag(2, 1)}, 0)
    assert handled_share(before, after) == (0.5, "outcomes of retouch-teacher")
    assert handled_share(after, Sample(20.0, {}, after.lags, 0)) == (1.0, "")


def test_capacity_is_the_rate_of_visible_answers_that_groups_keep_up_with() -> None:
    before = Sample(1_000.0, {}, {HISTORY: TopicLag(100, 0)}, 0)
    after = Sample(1_010.0, {}, {HISTORY: TopicLag(300, 50)}, 0)
    found = capacity_figures(before, after, Answers([*answered([0.5] * 30), AskedQuestion(1_001.0, 1_001.0, None)], 0, {}))
    assert (found["answered_per_s"], found["handled_share"], found["per_s"], found["seconds"]) == (1.0, 0.75, 0.75, 10.0)
    assert found["slowest"] == "interactions of retouch-streams"


def test_due_times_have_the_rate_and_repeat_with_their_seed() -> None:
    found = list(due_times(50.0, 100.0, 1_000.0, seed=3))
    assert found == list(due_times(50.0, 100.0, 1_000.0, seed=3)) == sorted(found)
    assert found[0] > 1_000.0 and found[-1] < 1_100.0
    assert len(found) == pytest.approx(5_000, rel=0.1)
    gaps = [after - before for before, after in itertools.pairwise(found)]
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.1)  # an exponential distribution


def test_new_interactions_are_distinct_later_than_history_and_before_questions() -> None:
    plan = TrafficPlan(users=5, history=2)
    events = list(itertools.islice(new_interactions(plan, "soak"), 40))
    assert len({event.interaction_id for event in events}) == 40
    assert len({event.user for event in events}) == 5
    past, question = max(item.occurred_at for item in plan.past()), next(plan.background("trial", "soak")).query
    assert past < events[0].occurred_at < events[-1].occurred_at < question.asked_at
    assert {event.interaction_id for event in itertools.islice(new_interactions(plan, "other"), 40)}.isdisjoint(event.interaction_id for event in events)


def test_a_long_run_is_sampled_seldom_and_a_short_one_each_second() -> None:
    assert SoakPlan.sample_every_s(60.0) == 1.0
    assert SoakPlan.sample_every_s(1_800.0) == 5.0
    assert (FULL.load_share, QUICK.load_share) == (0.7, 0.7)


def test_use_of_a_process_tree_has_memory_files_and_threads() -> None:
    before = tree_use(psutil.Process())
    with Path(os.devnull).open("rb"):
        after = tree_use(psutil.Process())
    assert after.open_files == before.open_files + 1
    assert 0 < before.pss_bytes <= before.rss_bytes
    assert before.threads >= 1


def soak_run(tmp_path: Path) -> SoakRun:
    """A run that has ended, with the lines of its load."""
    rows = [line("asked", f"{at}", 1_000.0 + at, 1_000.0 + at) + line("answered", f"{at}", 1_000.2 + at, "personalized") for at in range(3 * THIRD)]
    (tmp_path / "soak.jsonl").write_text("".join(rows))
    capacity = {"answered_per_s": 10.0, "handled_share": 0.5, "slowest": "outcomes of retouch-teacher", "per_s": 5.0, "load_per_s": 3.5, "in_flight": 64}
    return SoakRun(load(stack={"dir": tmp_path}), FULL, 30.0, 0, capacity, samples(), began_s=1_000.0, ended_s=1_030.0)


def test_the_report_says_what_was_measured(tmp_path: Path) -> None:
    report = report_head(command.KIND) | command.report(soak_run(tmp_path), 0.0)
    assert report["ok"] and report["ended_early"] is None and report["minutes"] == 0.5
    text = "\n".join(command.lines(report, tmp_path))
    assert "capacity: 5.0 questions/s (10.0 answers/s with 64 open, outcomes of retouch-teacher handled 0.50 of its inflow)" in text
    assert "30 questions asked, 0 lost, 0 answered again" in text
    assert "latency of the last third: p50 200 ms" in text
    draw(report, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000


class EndingRun(SoakRun):
    """Ends with `end` after some samples, or before the load."""

    end: BaseException = KeyboardInterrupt()
    has_begun = True

    def play(self) -> None:
        if self.has_begun:
            found = soak_run(self.settings.stack.dir)
            self.capacity, self.samples, self.began_s, self.ended_s = found.capacity, found.samples, found.began_s, found.ended_s
        raise self.end


@pytest.mark.parametrize(("end", "code"), [(KeyboardInterrupt(), 130), (CannotContinue("base failed"), 1)])
def test_a_run_that_ends_early_reports_what_it_measured(
    end: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(EndingRun, "end", end)
    monkeypatch.setattr(command, "SoakRun", EndingRun)
    assert command.run(load(), command.SoakOptions(tmp_path, 1.0)) == code
    report = json.loads((tmp_path / "soak.json").read_text())
    assert report["ended_early"] == (f"{end}" or "interrupted")
    assert report["answers"]["asked"] == 3 * THIRD
    assert "ended early" in capsys.readouterr().out


def test_sigterm_leaves_a_report_too_and_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EndingRun, "end", SystemExit(143))
    monkeypatch.setattr(command, "SoakRun", EndingRun)
    with pytest.raises(SystemExit) as ended:
        command.run(load(), command.SoakOptions(tmp_path, 1.0))
    assert ended.value.code == 143
    assert (tmp_path / "soak.json").exists()


def test_a_run_that_ends_before_the_load_writes_no_report_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(EndingRun, "has_begun", False)
    monkeypatch.setattr(EndingRun, "end", KeyboardInterrupt())
    monkeypatch.setattr(command, "SoakRun", EndingRun)
    with pytest.raises(KeyboardInterrupt):
        command.run(load(), command.SoakOptions(tmp_path, 1.0))
    assert not (tmp_path / "soak.json").exists()
    assert "no report is written" in capsys.readouterr().err


@pytest.mark.parametrize("foreign", [{"kafka": {"bootstrap_servers": "elsewhere:9092"}}, {"index": {"url": "http://elsewhere:6333"}}])
def test_stores_of_others_are_refused(foreign: dict[str, dict[str, str]], tmp_path: Path) -> None:
    settings: Settings = load(**foreign)
    with pytest.raises(BadSetting, match="must not be set"):
        command.run(settings, command.SoakOptions(tmp_path, 1.0))
