from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from uuid import UUID

from bench.demo.mixed_versions import TraceResult
from bench.demo.records import RunRecords, Timestamped
from bench.demo.report import DemoReport
from bench.demo.report_builder import AFTER, BEFORE, DemoRun, build_report, event_to_first_answer_s, graded, swap_of
from bench.demo.run_files import RunFiles, Truth, WorkerSwap
from bench.machine import Machine
from bench.phases import PhaseClock, PhaseSpan
from infra.registry.client import RegisteredVersion
from infra.settings import Settings
from schemas.experiments import Arm, Assignment
from schemas.ids import derive, is_held_out
from schemas.model_events import Alias, ModelEvent
from schemas.promotion import Transition, VersionState
from schemas.responses import Response
from schemas.run_report import RunReport
from tests.support.demo_report import NOON, at, ledger, query, response

SWAP = WorkerSwap(from_version="1", to_version="2", at=at(10).isoformat(), in_flight=3, dropped=0, waited_ms=40, load_ms=5)
SETTINGS = Settings()
#: A held-out user and a training user, by hash.
HELD_OUT = next(f"u{n}" for n in range(100) if is_held_out("demo", f"u{n}", SETTINGS.trainer.holdout_share))
TRAINS = next(f"u{n}" for n in range(100) if not is_held_out("demo", f"u{n}", SETTINGS.trainer.holdout_share))


def all_same(answers: Iterable[tuple[str, Response]]) -> Mapping[TraceResult, int]:
    return Counter(TraceResult.SAME for _ in answers)


def around_the_swap() -> RunRecords:
    queries = [query(number, asked_s=8 + number) for number in range(5)]
    answers = [response(each, answered_s=9 + number * 1.5, version="1" if number < 2 else "2") for number, each in enumerate(queries)]
    records = ledger(queries, answers)
    event = ModelEvent(event_id=derive("event", 1), name="m", version="2", alias=Alias.CHAMPION, digest="d", previous="1", reason="better", occurred_at=at(9))
    records.model_events.append(Timestamped(event, at(9.5)))
    return records


def test_a_swap_has_its_open_questions_and_the_time_to_the_first_answer() -> None:
    swap = swap_of(around_the_swap(), SWAP, SETTINGS, all_same)
    assert (swap.in_flight, swap.open_queries, swap.dropped, swap.mixed_version, swap.checked) == (3, 2, 0, 0, 5)
    assert swap.event_to_first_answer_s == 2.5


def test_an_unanswered_question_around_the_swap_counts_as_dropped() -> None:
    records = around_the_swap()
    records.responses.pop()
    assert swap_of(records, SWAP, SETTINGS, all_same).dropped == 1


def test_dropped_requests_in_the_worker_s_log_count() -> None:
    assert swap_of(around_the_swap(), WorkerSwap("1", "2", SWAP.at, 3, 4, 40, 5), SETTINGS, all_same).dropped == 4


def test_mixed_answers_are_counted_by_the_trace() -> None:
    def one_mixed(answers: Iterable[tuple[str, Response]]) -> Mapping[TraceResult, int]:
        return {TraceResult.MIXED: 1, TraceResult.SAME: sum(1 for _ in answers) - 1}

    swap = swap_of(around_the_swap(), SWAP, SETTINGS, one_mixed)
    assert (swap.mixed_version, swap.checked) == (1, 5)


def test_a_version_without_an_answer_has_no_time_to_first_answer() -> None:
    assert event_to_first_answer_s(around_the_swap(), "3") is None


def exams(user: str) -> tuple[RunRecords, list[Truth]]:
    """One question of `user`, asked before and after: two queries that differ only in their ids."""
    first = query(1, user=user)
    second = Timestamped(first.message.model_copy(update={"query_id": derive("query", "again")}), at(20))
    records = ledger([first, second], [response(first, answered_s=1, answer="drama"), response(second, answered_s=21, answer="comedy", version="2")])
    return records, [_truth(first.message.query_id, user, BEFORE), _truth(second.message.query_id, user, AFTER)]


def _truth(query_id: UUID, user: str, round: str) -> Truth:
    return Truth(query_id, "demo", user, "probe", round, "comedy")


def test_exams_are_paired_by_question() -> None:
    [paper] = graded(*exams(HELD_OUT), holdout_share=SETTINGS.trainer.holdout_share)
    assert (paper.graded.draft, paper.graded.before, paper.graded.after, paper.graded.truth) == ("sci-fi", "drama", "comedy", "comedy")


def test_users_who_may_train_do_not_count() -> None:
    assert graded(*exams(TRAINS), holdout_share=SETTINGS.trainer.holdout_share) == []


def test_a_question_with_one_exam_answer_is_not_compared() -> None:
    records, truths = exams(HELD_OUT)
    records.responses.pop()
    assert graded(records, truths, SETTINGS.trainer.holdout_share) == []


def run(
    records: RunRecords, truths: list[Truth], swaps: list[WorkerSwap], training: RunReport | None = None, versions: Sequence[RegisteredVersion] = ()
) -> DemoRun:
    clock = PhaseClock(
        started_at=NOON,
        spans=[PhaseSpan("first exam", "before", 0.0, 5.0), PhaseSpan("train", "train", 5.0, 10.0), PhaseSpan("second exam", "after", 15.0, 10.0)],
    )
    evidence = RunFiles(truths=truths, training=training, swaps=swaps, versions=versions)
    machine = Machine(cores=2, memory_mb=8192, system="Linux")
    return DemoRun(SETTINGS, clock, records, evidence, machine, {"python": "3"}, 100, short=True, seed=0, sizes={"demo.users": 2})


def test_a_report_of_a_whole_run_is_ok() -> None:
    records, truths = exams(HELD_OUT)
    report = build_report(run(records, truths, []), all_same)
    assert report.ok
    assert report.counts.lost == 0
    assert report.quality.domains["movie_tag"].champion_after == 1.0
    assert report.latency_ms_by_phase["second exam"].total.p50 == 1000
    assert report.statuses_by_version == {"1": {"personalized": 1}, "2": {"personalized": 1}}
    assert [served.second for served in report.served] == [1, 21]
    assert DemoReport.model_validate_json(report.model_dump_json()) == report


def test_a_lost_answer_makes_the_report_fail() -> None:
    records, truths = exams(HELD_OUT)
    records.responses.pop()
    assert not build_report(run(records, truths, []), all_same).ok


def test_a_mixed_answer_makes_the_report_fail() -> None:
    assert not build_report(run(around_the_swap(), [], [SWAP]), lambda answers: {TraceResult.MIXED: 1}).ok


def test_transitions_are_sorted_by_time_and_the_timeline_has_this_run_s() -> None:
    def version(number: str, *steps: tuple[VersionState, VersionState, float]) -> RegisteredVersion:
        log = tuple(
            Transition(seq=seq, before=before, after=after, at=at(seconds), actor="promoter", reason="so")
            for seq, (before, after, seconds) in enumerate(steps, 1)
        )
        return RegisteredVersion("m", number, "d", "1" if number == "2" else None, NOON, history=log)

    shipped = version(
        "1",
        (VersionState.REGISTERED, VersionState.GATED, 3.0),
        (VersionState.GATED, VersionState.CHAMPION, 4.0),
        (VersionState.CHAMPION, VersionState.RETIRED, 10.5),
    )
    trained = version(
        "2",
        (VersionState.REGISTERED, VersionState.GATED, 6.0),
        (VersionState.GATED, VersionState.CANARY, 7.0),
        (VersionState.CANARY, VersionState.CHAMPION, 9.0),
    )
    report = build_report(run(around_the_swap(), [], [SWAP], versions=[shipped, trained]), all_same)
    assert [(step.version, step.after) for step in report.promotion] == [
        ("1", "gated"),
        ("1", "champion"),
        ("2", "gated"),
        ("2", "canary"),
        ("2", "champion"),
        ("1", "retired"),
    ]
    assert [moment.name for moment in report.moments] == ["version 2: canary", "version 2: champion", "swap to version 2"]


def test_canary_answers_do_not_count_as_first_answer_after_a_promotion() -> None:
    records = around_the_swap()
    in_canary = records.responses[2].message
    assigned = in_canary.provenance.model_copy(update={"assignment": Assignment(experiment=derive("e"), arm=Arm.CANARY, version="2")})
    records.responses[2] = Timestamped(in_canary.model_copy(update={"provenance": assigned}), records.responses[2].at)
    assert event_to_first_answer_s(records, "2") == 4.0


def test_the_report_has_the_training_run_s_rewards_and_losses() -> None:
    point = {"step": 1, "stage": 0, "k": 2, "reward": 0.5, "kl": 0.0, "entropy": 0.1, "signal_share": 0.6, "seconds": 3.0}
    point |= {"shown": 2.0, "usable_share": 1.0, "length": 9.0, "loss": 0.5}
    fields = {"run_id": "1", "status": "trained", "settings": {}, "seconds": {}, "reward_curve": [point], "sft_losses": [2.0, 1.5]}
    records, truths = exams(HELD_OUT)
    report = build_report(run(records, truths, [], RunReport.model_validate(fields)), all_same)
    assert report.rewards[0].reward == 0.5
    assert report.sft_losses == (2.0, 1.5)


def test_paths_are_not_in_the_settings_shown() -> None:
    records, truths = exams(HELD_OUT)
    shown = build_report(run(records, truths, []), all_same).settings
    assert not any(isinstance(value, str) and value.startswith("/") for value in shown.values())
    assert not any(isinstance(value, Path) for value in shown.values())
