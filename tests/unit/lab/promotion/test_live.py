"""The checks of promotion on a running system find each anomaly, on small made-up histories."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from infra.errors import BadSetting
from infra.registry.client import RegisteredVersion
from infra.registry.version_tags import transition_tag
from infra.settings import load
from lab.promotion import command
from lab.promotion.live.case_runner import KillSchedule
from lab.promotion.live.checker import GRACE_S, AnswerChecker, compare
from lab.promotion.live.registry_watcher import RegistryWatcher
from lab.promotion.live.scenarios import BAD, GOOD, SCENARIOS, VICTIMS, Kill, cases, outcome
from lab.promotion.live.simulated_users import ObservedAnswer
from lab.promotion.live.system import Downtime
from schemas.experiments import Arm, Assignment, arm_of
from schemas.promotion import Transition, VersionState
from schemas.responses import ModelVersion, ResponseStatus
from traffic.world import tweet_contexts
from trainer.promotion.version_history import VersionHistories

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHADOW, CANARY = UUID(int=1), UUID(int=2)
USERS = {arm: next(f"u{number}" for number in range(99) if arm_of(CANARY, 0.5, "lab", f"u{number}") is arm) for arm in (Arm.CANARY, Arm.BASELINE)}


def step(seq: int, before: VersionState, after: VersionState, at_s: float, experiment: UUID | None = None, replaces: str | None = None) -> Transition:
    share = 0.5 if experiment else 0.0
    at = NOW + timedelta(seconds=at_s)
    return Transition(seq=seq, before=before, after=after, at=at, actor="promoter", reason="", experiment=experiment, share=share, replaces=replaces)


FIRST = (step(1, VersionState.REGISTERED, VersionState.GATED, 0), step(2, VersionState.GATED, VersionState.CHAMPION, 1))
SECOND = (
    step(1, VersionState.REGISTERED, VersionState.GATED, 10),
    step(2, VersionState.GATED, VersionState.SHADOW, 20, SHADOW),
    step(3, VersionState.SHADOW, VersionState.CANARY, 30, CANARY),
    step(4, VersionState.CANARY, VersionState.REJECTED, 40),
)


def version(name: str, log: Sequence[Transition]) -> RegisteredVersion:
    return RegisteredVersion("reflector", name, f"sha-{name}", None, NOW, history=tuple(log))


HISTORIES = VersionHistories((version("1", FIRST), version("2", SECOND)))
EVENTS = {(registered.version, step.seq) for registered in HISTORIES.versions for step in registered.transitions}


def answer(name: str, at_s: float, arm: Arm = Arm.CHAMPION, experiment: UUID | None = None, user: str = "u0") -> ObservedAnswer:
    model = ModelVersion(name="reflector", version=name, digest=f"sha-{name}")
    assignment = Assignment(experiment=experiment, arm=arm, version=name)
    return ObservedAnswer(UUID(int=9), 0, ("lab", user), NOW + timedelta(seconds=at_s), assignment, model, ResponseStatus.PERSONALIZED)


def anomalies(shown: Sequence[ObservedAnswer] = (), shadows: Sequence[ObservedAnswer] = (), downtimes: Sequence[Downtime] = ()) -> list[str]:
    return AnswerChecker(HISTORIES, downtimes).anomalies({answer.query_id for answer in shown}, shown, shadows, EVENTS)


@pytest.mark.parametrize(
    "good",
    [
        answer("1", 5),
        answer("1", 25, Arm.CHAMPION, SHADOW),
        answer("2", 35, Arm.CANARY, CANARY, USERS[Arm.CANARY]),
        answer("1", 35, Arm.BASELINE, CANARY, USERS[Arm.BASELINE]),
        answer("2", 40 + GRACE_S, Arm.CANARY, CANARY, USERS[Arm.CANARY]),
    ],
)
def test_an_answer_by_a_serving_version_in_its_users_arm_is_no_anomaly(good: ObservedAnswer) -> None:
    assert anomalies([good]) == []


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (answer("2", 5), "outside its stage"),  # before its gate
        (answer("2", 25, Arm.CANARY, CANARY, USERS[Arm.CANARY]), "outside its stage"),  # users see no shadow answer
        (answer("2", 41 + GRACE_S, Arm.CANARY, CANARY, USERS[Arm.CANARY]), "outside its stage"),
        (answer("2", 35, Arm.CANARY, CANARY, USERS[Arm.BASELINE]), "arm canary, not baseline"),
        (answer("1", 25, Arm.BASELINE, SHADOW), "arm baseline, not champion"),
        (answer("1", 35, Arm.CHAMPION, UUID(int=7)), "arm champion, not None"),
        (answer("1", 35, Arm.CANARY), "without an experiment"),
        (replace(answer("1", 5), assignment=None), "no assignment"),
        (replace(answer("1", 5), model=ModelVersion(name="reflector", version="2", digest="sha-2")), "assigned to version 1, answered by 2"),
    ],
)
def test_an_answer_of_a_wrong_version_or_arm_is_an_anomaly(bad: ObservedAnswer, why: str) -> None:
    assert why in "\n".join(anomalies([bad]))


def test_shadow_answers_belong_to_the_shadow_stage_of_their_version() -> None:
    assert anomalies(shadows=[answer("2", 25, Arm.SHADOW, SHADOW)]) == []
    assert "outside its stage" in anomalies(shadows=[answer("2", 36 + GRACE_S, Arm.SHADOW, SHADOW)])[0]
    assert "assigned" in anomalies(shadows=[answer("2", 25, Arm.CHAMPION, SHADOW)])[0]


def test_time_in_which_the_registry_is_away_does_not_count() -> None:
    late = answer("2", 45 + GRACE_S, Arm.CANARY, CANARY, USERS[Arm.CANARY])
    downtime = Downtime(NOW.timestamp() + 38, NOW.timestamp() + 50)
    assert anomalies([late]) and not anomalies([late], downtimes=[downtime])


def test_missing_and_repeated_answers_and_missing_events_are_anomalies() -> None:
    shown = answer("1", 5)
    lines = AnswerChecker(HISTORIES, ()).anomalies({shown.query_id, UUID(int=8)}, [shown, shown], [], EVENTS - {("2", 3)})
    assert sorted(line.split(": ")[1] for line in lines) == ["answered 0 times", "answered 2 times", "transition 3 was never announced"]
    assert "never asked" in AnswerChecker(HISTORIES, ()).anomalies(set(), [shown], [], EVENTS)[0]


def test_texts_of_another_version_are_anomalies_and_new_texts_are_counted() -> None:
    status = ResponseStatus.PERSONALIZED
    texts = {"sha-1": [(status, ("", "one"))], "sha-2": [(status, ("", "two"))]}
    answers = [replace(answer("1", 5), text=("", text)) for text in ("one", "two", "three")]
    figures, lines = compare([*answers, answer("3", 5)], texts)
    assert figures == {"compared": 4, "equal": 1, "other_words": 1, "telling_percent": 100}
    assert [line.split(", ")[1] for line in lines] == ["with the text of another", "with a digest that is not registered"]


def test_in_three_rounds_each_process_is_killed_at_every_transition() -> None:
    drawn = [case for case in cases(51, 0) if case.kills]
    at = {(case.scenario.name, number, kill.victim) for case in drawn for number, kill in enumerate(case.kills)}
    assert len(at) == 51 == sum(len(case.kills) for case in drawn) and len(list(cases(51, 0))) == len(drawn) + len(SCENARIOS)
    assert {victim: sum(victim == killed for _, _, killed in at) for victim in VICTIMS} == dict.fromkeys(VICTIMS, 17)
    assert [case.kills for case in cases(5, 3)] == [case.kills for case in cases(5, 3)] and sum(len(case.kills) for case in cases(5, 3)) == 5


def test_a_kill_waits_for_its_delay_and_for_a_process_to_kill() -> None:
    now, running, killed = [0.0], [False], list[str]()

    def kill(name: str) -> bool:
        killed.extend([name] * running[0])
        return running[0]

    before = VersionHistories((HISTORIES.versions[0], version("2", SECOND[:1])))
    kills = KillSchedule([Kill("worker", 0.5), Kill("promoter", 0.0)], before, kill, lambda: now[0])
    kills.step(before)
    now[0] = 9.0
    kills.step(HISTORIES)
    assert not killed
    running[0] = True
    kills.step(HISTORIES)
    assert killed == ["promoter"] and not kills.are_done
    now[0] = 9.5
    kills.step(HISTORIES)
    assert killed == ["promoter", "worker"] and kills.are_done and [kill.after for kill in kills.done] == [VersionState.CANARY, VersionState.SHADOW]


def test_outcomes_are_compared_without_times_and_version_numbers() -> None:
    before = VersionHistories((HISTORIES.versions[0],))
    repeated = tuple(transition.model_copy(update={"at": transition.at + timedelta(hours=1), "reason": "other figures"}) for transition in SECOND)
    later = VersionHistories((*HISTORIES.versions, version("3", repeated)))
    assert outcome(before, HISTORIES, "2") == outcome(HISTORIES, later, "3")
    shorter = VersionHistories((*HISTORIES.versions, version("3", repeated[:3])))
    assert outcome(before, HISTORIES, "2") != outcome(HISTORIES, shorter, "3")
    assert BAD.states == tuple(transition.after for transition in SECOND) and GOOD.final_state is VersionState.REJECTED


def test_the_watcher_finds_an_alias_on_a_version_that_was_not_gated(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    watch = RegistryWatcher(path, "reflector")
    assert not watch.read() and watch.failed == 1
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE model_versions (name TEXT, version INTEGER, creation_time INTEGER)")
        database.execute("CREATE TABLE model_version_tags (name TEXT, version INTEGER, key TEXT, value TEXT)")
        database.execute("CREATE TABLE registered_model_aliases (name TEXT, version INTEGER, alias TEXT)")
        database.executemany("INSERT INTO model_versions VALUES ('reflector', ?, 0)", [(1,), (2,)])
        tags = [(transition_tag(transition.seq), transition.model_dump_json()) for transition in FIRST]
        database.executemany("INSERT INTO model_version_tags VALUES ('reflector', 1, ?, ?)", tags)
        database.execute("INSERT INTO registered_model_aliases VALUES ('reflector', 1, 'champion')")
    assert watch.read() and not watch.read() and watch.anomalies == []
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO registered_model_aliases VALUES ('reflector', 2, 'challenger')")
    assert watch.read() and watch.anomalies == ["challenger names version 2, which never was gated"]


def test_a_run_without_kills_is_refused() -> None:
    with pytest.raises(BadSetting, match="--kills and --live are both 0"):
        command.run(load(), kills=0, live=0, seed=0, out=None, as_json=False)


def test_the_report_lists_kills_by_process_and_anomalies() -> None:
    answers = {"asked": 7, "shown": 7, "unseen": 2}
    live = {"kills": {"promoter": 1, "worker": 2}, "cases": [{}], "answers": answers, "recoveries_s": {"worker": {"median": 8.0, "max": 9.5}}}
    parts = {"boundaries": {"scenarios": {"good": {"kills": 4, "writes": 9, "ends": "champion"}}}, "live": live}
    assert command.lines({"kills": {"promoter": 5, "worker": 2}, "anomalies": ["two champions"], "seconds": 61.5, **parts}) == [
        "good: 4 kills, 9 writes, ends champion",
        "running system: 1 versions, 7 questions, 7 answers, 2 unseen ones",
        "promoter: 1 kills",
        "worker: 2 kills, back in 8.0 s, at most 9.5 s",
        "  two champions",
        "7 kills (5 promoter, 2 worker) in 61.5 s: 1 anomalies",
    ]


def test_simulated_users_ask_with_their_own_history() -> None:
    user_contexts = tweet_contexts(3, 0, "lab", 2)
    assert len({context.draft.query.user for context in user_contexts}) == 3 and all(len(context.items) == 2 for context in user_contexts)
