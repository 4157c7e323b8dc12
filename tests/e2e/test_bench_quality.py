"""`retouch bench quality` on the small world: every strategy answers every question once, and a second call asks nothing."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.local.broker import Broker
from infra.local.stack_record import read_record
from infra.settings import load
from schemas.queries import Query
from schemas.responses import Response
from schemas.strategies import Strategy
from schemas.topics import QUERIES, RESPONSES
from tests.support.tagged_processes import PROCESS_TAG, tagged, until_nothing_is_left
from traffic.observer import Observer

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900
#: None of them needs a training run.
ARMS = ["zero_shot", "rag", "icl", "pag", "rpm", "rag@random"]

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(2 * TIMEOUT_S + 60)]


def bench(out: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The report and the log of one call. Exit code 1: an ordering does not hold, which says nothing after so little training."""
    command = [sys.executable, "-c", "from cli import main; main()", "bench", "quality", "--quick", "--out", str(out), *arguments]
    ended = subprocess.run(command, cwd=ROOT, timeout=TIMEOUT_S, check=False, capture_output=True, text=True)
    assert ended.returncode in (0, 1), ended.stderr
    return json.loads((out / "quality.json").read_text()), ended.stderr


@pytest.fixture
def tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tag in the environment of all processes of the test. Those left at the end are killed, so a failure does not affect other tests."""
    monkeypatch.setenv(PROCESS_TAG, str(tmp_path))
    yield str(tmp_path)
    for process in tagged(str(tmp_path)):
        process.kill()


@contextmanager
def started(out: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, running."""
    command = [sys.executable, "-c", "from cli import main; main()", "bench", "quality", "--quick", "--out", str(out), *arguments]
    with (out / "first.log").open("wb") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_answers(state: Path, strategy: Strategy, count: int, process: subprocess.Popen[bytes]) -> None:
    """Blocks until so many answers of the strategy are in the log."""
    deadline = time.monotonic() + TIMEOUT_S
    while (record := read_record(state) if state.exists() else None) is None or not record.is_serving:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    found = 0
    with Observer(load(kafka={"bootstrap_servers": record.bootstrap_servers}), [RESPONSES]) as observer:
        while found < count:
            assert process.poll() is None and time.monotonic() < deadline
            found += sum(isinstance(seen.message, Response) and seen.message.provenance.strategy is strategy for seen in observer.poll(0.1))


def read_queries(state: Path) -> list[Query]:
    """All queries that the broker of this state directory holds."""
    with Broker(load(stack={"dir": state})) as broker, Observer(load(kafka={"bootstrap_servers": broker.bootstrap_servers}), [QUERIES]) as observer:
        return [seen.message for seen in observer.read_to_end(60) if isinstance(seen.message, Query)]


def test_every_strategy_answers_every_question_once_and_a_second_call_asks_nothing(tmp_path: Path) -> None:
    report, log = bench(tmp_path, "--strategies", ",".join(ARMS))
    assert log.count("start the processes") == 1 and "restart streams:" in log
    counts = report["counts"]
    assert counts["missing"] == {} and counts["questions"] > 20
    assert all(report["arms"][arm]["answered"] == counts["questions"] for arm in ARMS)
    personalized = {arm: report["arms"][arm]["statuses"].get("personalized", 0) for arm in ARMS}
    assert all(personalized[arm] > counts["questions"] / 2 for arm in ("rag", "icl")) and personalized["pag"] > 0 and personalized["rpm"] > 0
    answers = (tmp_path / "answers.jsonl").read_bytes()

    again, log = bench(tmp_path, "--strategies", ",".join(ARMS))
    assert "ask" not in log and "continuing the run" in log
    assert again["arms"] == report["arms"]
    assert (tmp_path / "answers.jsonl").read_bytes() == answers


@pytest.mark.long("it runs the whole stack twice")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_ended_while_it_asked_continues_and_asks_no_question_twice(tmp_path: Path, tag: str, end: signal.Signals) -> None:
    arms = ("--users", "60", "--strategies", "zero_shot,rag@random")
    with started(tmp_path, *arms, "--in-flight", "1") as process:
        wait_for_answers(tmp_path / "state", Strategy.RAG, 3, process)
        process.send_signal(end)
        assert process.wait(TIMEOUT_S) != 0
    until_nothing_is_left(tag)

    report, log = bench(tmp_path, *arms)
    questions = report["counts"]["questions"]
    asked = re.search(r"ask (\d+) questions under rag@random", log)
    assert asked and 0 < int(asked[1]) < questions
    assert "questions under zero_shot" not in log
    assert report["counts"]["missing"] == {} and report["arms"]["rag@random"]["answered"] == questions
    sent = [query.query_id for query in read_queries(tmp_path / "state")]
    assert len(sent) == len(set(sent)) == 2 * questions


@pytest.mark.long("it runs the whole stack")
def test_nothing_is_asked_or_trained_once_the_budget_is_spent(tmp_path: Path) -> None:
    report, log = bench(tmp_path, "--strategies", "rpo,rag", "--max-tokens", "1")
    counts = report["counts"]
    assert counts["missing"] == {"rpo": counts["questions"], "rag": counts["questions"]}
    assert "the budget of 1 tokens is spent" in log and "train:" not in log and "questions under" not in log
    assert counts["tokens"] > 64 and len(read_queries(tmp_path / "state")) == 64


@pytest.mark.long("it trains the reflection model twice and HYDRA")
def test_strategies_with_a_model_are_answered_by_their_own_versions(tmp_path: Path) -> None:
    report, _ = bench(tmp_path, "--strategies", "hydra,rpo,rpo:sft,rpo:given")
    versions, counts = report["models"]["versions"], report["counts"]
    assert versions.keys() == {"rpo", "sft", "given", "hydra"} and counts["missing"] == {}
    answered = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    by_arm = {arm: {answer["version"] for answer in answered if answer["arm"] == arm} for arm in ("rpo", "rpo:sft", "rpo:given", "hydra")}
    assert len({versions[name] for name in ("rpo", "sft", "given")}) == 3
    assert by_arm == {"rpo": {versions["rpo"]}, "rpo:sft": {versions["sft"]}, "rpo:given": {versions["given"]}, "hydra": {versions["hydra"]}}


def test_another_plan_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / ".retouch-state").touch()
    (tmp_path / "plan.json").write_text('{"seed": 7}')
    command = [sys.executable, "-c", "from cli import main; main()", "bench", "quality", "--quick", "--strategies", "rag", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, timeout=120, check=False, capture_output=True, text=True)
    assert ended.returncode == 1 and "another value of seed" in ended.stderr
