"""Replays and the simulated platform on a real broker, with a small system in a thread that answers at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaError

from infra.errors import RetryLater
from infra.kafka.clients import groupless_consumer, producer, send
from infra.local.broker import Broker
from infra.settings import Settings
from schemas.envelope import read_message
from schemas.feedback import Feedback
from schemas.interactions import Interaction
from schemas.lamp_metrics import OfficialTask
from schemas.messages import MessageIdentity
from schemas.queries import Query
from schemas.responses import Response
from schemas.topics import DEAD_LETTERED, FEEDBACK, INTERACTIONS, QUERIES, RESPONSES, TOPICS, dead_letter_topic
from tests.support.own_broker import own_broker
from tests.support.replay_questions import question
from tests.support.replay_responses import response_to
from tests.support.small_datasets import paper, write_jsonl, write_lamp
from traffic import replay
from traffic.datasets.files import DataFile
from traffic.datasets.lamp_outputs import LampOutputs, evaluate
from traffic.lag import STREAMS_GROUP, GroupLag
from traffic.observer import AnswerCounts, Observer
from traffic.plan import TrafficPlan
from traffic.platform import AskingLimits
from traffic.schedule import Pace
from traffic.simulation import Phase, PhaseOptions, play

#: A bound for a busy machine: a normal run needs much less.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

Answers = Callable[[int, Query], int]
MANNERS = AskingLimits(max_in_flight=8, timeout_s=60)
PLAN = TrafficPlan(tenant="sim", users=4, history=3, learn=2, exam=1)


def _always_once(number: int, query: Query) -> int:
    return 1


class EchoSystem(threading.Thread):
    """Answers each query `answers(number, query)` times with the user's latest response, and publishes feedback as interactions."""

    def __init__(self, settings: Settings, answers: Answers = _always_once) -> None:
        super().__init__(daemon=True)
        self._answers = answers
        self._stopping = threading.Event()
        self._producer = producer(settings, "echo")
        self._consumer = groupless_consumer(settings, "echo", group_id=STREAMS_GROUP, max_poll_records=100)
        names = [topic.name for topic in (INTERACTIONS, QUERIES, RESPONSES, FEEDBACK)]
        self._consumer.assign([TopicPartition(name, number) for name in names for number in self._consumer.partitions_for_topic(name) or ()])
        self.queries: dict[Any, Query] = {}
        self._interactions: dict[tuple[str, str], list[Interaction]] = {}
        self._number = 0

    def run(self) -> None:
        while not self._stopping.is_set():
            for records in self._consumer.poll(timeout_ms=50).values():
                for record in records:
                    self._handle(record)
            self._producer.flush()
            with suppress(KafkaError):  # a slow coordinator: the next turn commits as well
                self._consumer.commit()
        self._consumer.close()
        self._producer.close()

    def end(self) -> None:
        self._stopping.set()
        self.join(timeout=30)

    def _handle(self, record: Any) -> None:
        if record.topic == INTERACTIONS.name:
            interaction, _ = read_message(Interaction, record.headers, record.value)
            self._interactions.setdefault((interaction.tenant, interaction.user), []).append(interaction)
        elif record.topic == QUERIES.name:
            query, _ = read_message(Query, record.headers, record.value)
            self.queries[query.identity] = query
            for _ in range(self._answers(self._number, query)):
                send(self._producer, RESPONSES, response_to(query, base="Title", final=self._latest(query)), id=query.query_id, source="/echo")
            self._number += 1
        elif record.topic == FEEDBACK.name:
            self._learn(read_message(Feedback, record.headers, record.value)[0])

    def _latest(self, query: Query) -> str:
        earlier = [interaction for interaction in self._interactions.get((query.tenant, query.user), []) if interaction.occurred_at < query.asked_at]
        return max(earlier, key=lambda interaction: interaction.occurred_at).response if earlier else ""

    def _learn(self, feedback: Feedback) -> None:
        query = self.queries[MessageIdentity(feedback.key, feedback.query_id)]
        interaction = Interaction.from_feedback(query, feedback)
        assert interaction is not None
        send(self._producer, INTERACTIONS, interaction, id=interaction.interaction_id, source="/echo")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A separate broker. EchoSystem commits as the streams' group, which a broker refuses until the sessions of that group's members in other tests have
    ended. It also reads all records, and other tests write invalid ones."""
    with own_broker(tmp_path_factory.mktemp("replay")) as running:
        yield running


@contextmanager
def echo_system(settings: Settings, answers: Answers = _always_once) -> Iterator[EchoSystem]:
    system = EchoSystem(settings, answers)
    system.start()
    try:
        yield system
    finally:
        system.end()


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    folder.mkdir()
    rows = [paper(author, number, f"2007-01-{10 + number}") for author in ("Ryabko, Boris", "a/b", "c") for number in range(5)]
    write_jsonl(folder / "papers.jsonl", rows)
    return folder


def _tenant(settings: Settings, name: str) -> Settings:
    return settings.model_copy(update={"tenant": name})


def test_every_paper_ends_in_the_log_and_each_author_gets_figures(settings: Settings, papers: Path, tmp_path: Path) -> None:
    with echo_system(settings):
        code = replay.run(_tenant(settings, "papers"), papers, replay.ReplayOptions(out=tmp_path / "out" / "report.json", timeout_s=60))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert code == 0
    counts = report["counts"]
    assert (counts["users"], counts["interactions"], counts["questions"], counts["feedback"]) == (3, 6, 9, 9)
    assert (counts["asked"], counts["answered"], counts["lost"], counts["duplicated"]) == (9, 9, 0, 0)
    assert counts["interactions_in_log"] == counts["interactions_expected"] == 15
    assert report["statuses"] == {"personalized": 9}
    titles = report["domains"]["scholarly_title"]
    assert titles["base"]["rouge_1"] == pytest.approx(2 / 3), "'Title' of 'Title 4'"
    assert titles["final"]["rouge_1"] == pytest.approx(1 / 2), "the title before, which feedback has just told: one word of two"
    assert len(report["users"]) == 3
    assert report["latency_ms"]["p99"] > 0


def test_a_second_replay_asks_nothing_again_and_adds_nothing_to_the_log(settings: Settings, papers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with echo_system(settings):
        for _ in range(2):
            assert replay.run(_tenant(settings, "again"), papers, replay.ReplayOptions(as_json=True, timeout_s=60)) == 0
        first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
        assert replay.run(_tenant(settings, "again"), papers, replay.ReplayOptions(timeout_s=60)) == 0
    assert second["counts"] == first["counts"] | {"answered_before": 9, "asked": 0, "answered": 0}
    assert (second["counts"]["interactions_in_log"], second["counts"]["feedback"]) == (15, 9)
    assert (second["domains"], second["users"], second["statuses"]) == (first["domains"], first["users"], {"personalized": 9})
    assert "9 of 9 questions have an answer from an earlier replay, and were not asked again" in capsys.readouterr().out


def test_an_interrupted_replay_is_finished_by_the_next_one(settings: Settings, papers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent = {"c"}
    with echo_system(settings, lambda number, query: 0 if query.user in silent else 1):
        assert replay.run(_tenant(settings, "twice"), papers, replay.ReplayOptions(as_json=True, timeout_s=6)) == 1
        silent.clear()
        assert replay.run(_tenant(settings, "twice"), papers, replay.ReplayOptions(as_json=True, timeout_s=60)) == 0
    counts = json.loads(capsys.readouterr().out.splitlines()[1])["counts"]
    assert (counts["answered_before"], counts["asked"], counts["answered"], counts["interactions_in_log"]) == (6, 3, 3, 15)


def test_interactions_of_another_replay_are_not_counted(settings: Settings, papers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The topic has as many interactions of these users. But two are of other papers, and one has another title."""
    changed = tmp_path / "changed"
    changed.mkdir()
    rows = [json.loads(line) for line in (papers / "papers.jsonl").read_text().splitlines()]
    others = [paper(rows[0]["user_id"], number, f"2007-01-{10 + number}") for number in (6, 7)]
    write_jsonl(changed / "papers.jsonl", [*others, rows[0] | {"title": "Another title"}, *rows[1:]])
    with echo_system(settings):
        assert replay.run(_tenant(settings, "changed"), papers, replay.ReplayOptions(as_json=True, timeout_s=60)) == 0
        assert replay.run(_tenant(settings, "changed"), changed, replay.ReplayOptions(as_json=True, timeout_s=60)) == 1
    report = json.loads(capsys.readouterr().out.splitlines()[1])
    assert not report["in_log_all"] and report["answered_all"]
    assert (report["counts"]["interactions_in_log"], report["counts"]["interactions_expected"]) == (16, 17)


def test_two_users_with_the_same_ids_are_answered_apart(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = question("ann", 1).query
    queries = [asked, asked.model_copy(update={"user": "bob"})]
    given = [Feedback.answering(asked, "Title", asked.asked_at), Feedback.answering(queries[1], "Title", asked.asked_at)]
    write_jsonl(tmp_path / "events.jsonl", [{"type": message.ce_type(), "data": message.model_dump(mode="json")} for message in (*queries, *given)])
    with echo_system(settings):
        assert replay.run(_tenant(settings, "t"), tmp_path, replay.ReplayOptions(as_json=True, timeout_s=60)) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert (counts["users"], counts["answered"], counts["duplicated"], counts["feedback"], counts["interactions_in_log"]) == (2, 2, 0, 2, 2)


def test_a_lamp_folder_runs_through_the_same_topics(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [{"id": f"10{n}", "text": f"review {n}", "score": str(n + 1)} for n in range(4)]
    question = "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without further explanation. review: fine"
    folder = write_lamp(tmp_path / "lamp", [{"id": str(n), "input": question, "profile": items} for n in (1, 2)], "LaMP_3", {"2": "4", "1": "2"})
    with echo_system(settings):
        assert replay.run(_tenant(settings, "lamp"), folder, replay.ReplayOptions(timeout_s=60, predictions=tmp_path / "answers")) == 0
    shown = capsys.readouterr().out
    assert "LaMP-3, product ratings, user split, with outputs" in shown
    assert "rmse" in shown and "2 of 2 answered, 0 lost" in shown
    golds, final = LampOutputs(DataFile(folder / "dev_outputs.json")), LampOutputs(DataFile(tmp_path / "answers" / "product_rating-final.json"))
    assert evaluate(OfficialTask.LAMP_3, golds, final).questions == 2, "the ids are LaMP's own"


def _survey(settings: Settings) -> AnswerCounts:
    """Counts of every topic, dead letters too."""
    tally = AnswerCounts()
    dead = [dead_letter_topic(topic.name) for topic in DEAD_LETTERED]
    with Observer(settings, TOPICS, raw=dead, client_id="survey") as observer:
        for sighting in observer.read_to_end(60.0):
            tally.note(sighting)
    for name in dead:
        del tally.unreadable[name]
    return tally


def test_unanswered_queries_are_lost_and_fail_the_replay(settings: Settings, papers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with echo_system(settings, lambda number, query: 0 if query.user == "c" else 2):
        code = replay.run(_tenant(settings, "lossy"), papers, replay.ReplayOptions(as_json=True, timeout_s=6))
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert code == 1
    assert (counts["asked"], counts["answered"], counts["lost"], counts["interactions_in_log"]) == (9, 6, 3, 12)
    seen = _survey(settings)
    assert seen.duplicated >= 6 and len(seen.lost) >= 3


def test_without_the_streams_a_replay_fails_and_names_the_missing_process(settings: Settings, papers: Path) -> None:
    with echo_system(settings), GroupLag(settings) as lag:
        assert lag.wait([INTERACTIONS, RESPONSES, FEEDBACK], stall_s=20)
    with pytest.raises(RetryLater, match=r"group retouch-streams has made no progress for .*6 records before the end of interactions.*python -m streams"):
        replay.run(_tenant(settings, "alone"), papers, replay.ReplayOptions(timeout_s=1))


def test_the_phases_of_a_simulation_add_up(settings: Settings, tmp_path: Path) -> None:
    truths, stop = tmp_path / "truths.jsonl", threading.Event()

    def run(phase: Phase, **options: Any) -> dict[str, Any]:
        return play(settings, PLAN, phase, PhaseOptions(limits=MANNERS, truths=truths, **options), Pace(20 if phase is Phase.STEADY else None), stop)

    with echo_system(settings):
        history = run(Phase.HISTORY, settle=True)
        learned = run(Phase.LEARN, settle=True)
        probes = [run(Phase.PROBE, round=name) for name in ("before", "after")]
        burst = run(Phase.BURST, count=20)
        steady = run(Phase.STEADY, seconds=1.0)
    assert (history["interactions"], history["settled"], history["asked"]) == (4 * 3 * 3, True, 0)
    assert (learned["asked"], learned["feedback"], learned["settled"]) == (24, 24, True)
    assert [summary["asked"] for summary in probes] == [12, 12]
    assert burst["asked"] == 20
    assert 0 < steady["asked"] <= 22
    for summary in (learned, *probes, burst, steady):
        assert (summary["answered"], summary["lost"], summary["duplicated"], summary["unsent"]) == (summary["asked"], 0, 0, False)
    lines = [json.loads(line) for line in truths.read_text().splitlines()]
    assert Counter(line["phase"] for line in lines) == {"learn": 24, "probe": 24, "burst": 20, "steady": steady["asked"]}
    assert len({line["query_id"] for line in lines}) == len(lines)


def test_exam_rounds_are_answered_from_the_very_same_history(settings: Settings) -> None:
    plan = PLAN.model_copy(update={"tenant": "exams"})
    with echo_system(settings):
        play(settings, plan, Phase.HISTORY, PhaseOptions(limits=MANNERS, settle=True), Pace(), threading.Event())
        play(settings, plan, Phase.LEARN, PhaseOptions(limits=MANNERS, settle=True), Pace(), threading.Event())
        for name in ("before", "after"):
            play(settings, plan, Phase.PROBE, PhaseOptions(name, MANNERS), Pace(), threading.Event())
            play(settings, plan, Phase.BURST, PhaseOptions(name, MANNERS), Pace(), threading.Event())
    by_id = _answers(settings)
    before, after = ([by_id[str(question.query.query_id)] for question in plan.exams(name)] for name in ("before", "after"))
    assert before == after
    assert len(set(before)) > 1, "answers do follow the history"


def _answers(settings: Settings) -> dict[str, str]:
    with Observer(settings, [RESPONSES]) as observer:
        return {str(seen.message.query_id): seen.message.answer for seen in observer.read_to_end(30) if isinstance(seen.message, Response)}


def test_a_stopped_steady_phase_returns_its_summary(settings: Settings, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    environment = os.environ | {"KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers(), "RETOUCH_READY_FILE": str(ready)}
    command = [sys.executable, "-m", "traffic", "simulate", "steady", "--rate", "20", "--in-flight", "64", "--users", "3", "--tenant", "cli"]
    with echo_system(settings) as system, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 120
        while not ready.exists() or sum(query.tenant == "cli" for query in list(system.queries.values())) < 5:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=90)
    summary = json.loads(out)
    assert summary["asked"] == summary["answered"] >= 5
    assert summary["lost"] == 0
    assert process.returncode == 0, err
