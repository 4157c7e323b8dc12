"""`lab chaos` on the real stack: it finds a planted anomaly and leaves no process behind. Needs what the demo needs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kafka import KafkaConsumer, TopicPartition

from infra.kafka import clients
from infra.local.stack_record import lock_path
from infra.process.file_lock import holder
from infra.settings import Settings, load
from lab.chaos.checker import AnomalyKind
from lab.chaos.command import PICTURE, REPORT, experiment
from lab.chaos.experiment import ChaosOptions
from lab.chaos.load import LoadSize
from schemas.topics import RESPONSES
from tests.support.chaos_records import read_seen, read_sent
from tests.support.tagged_processes import PROCESS_TAG, tagged, until_nothing_is_left

ROOT = Path(__file__).parents[2]
RUN_TIMEOUT_S = 600
STOP_TIMEOUT_S = 90
#: The seed of a plan whose first fault is a pause of more than ten seconds.
PAUSES_FIRST = 25
#: The engine that starts fastest; the answers do not matter here.
ENGINE = "transformers"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.long("faults and recovery of the whole stack take minutes"),
    pytest.mark.timeout(RUN_TIMEOUT_S + STOP_TIMEOUT_S),
]


@pytest.fixture
def tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tag in the environment of all processes of the test. Those left at the end are killed, so a failure does not affect other tests."""
    monkeypatch.setenv(PROCESS_TAG, str(tmp_path))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RETOUCH_REFLECTION__ENGINE", ENGINE)
    yield str(tmp_path)
    for process in tagged(str(tmp_path)):
        process.kill()


def test_a_short_run_finds_a_planted_duplicate(tmp_path: Path, tag: str) -> None:
    duplicated: list[str] = []

    def repeat_a_response(settings: Settings) -> None:
        duplicated.append(repeat_last_response(settings))

    options = ChaosOptions(size=LoadSize(users=8, queries_per_s=5.0), before_reading=repeat_a_response)
    settings = load(stack={"start_timeout_s": RUN_TIMEOUT_S / 2})
    report = experiment(settings, tmp_path, minutes=0.3, seed=0, options=options)
    until_nothing_is_left(tag)
    assert report["failure"] is None
    assert not report["valid"]
    assert report["anomalies"][AnomalyKind.LOST_WRITE.value] == 0
    assert report["anomalies"][AnomalyKind.ABORTED_READ.value] == report["anomalies"][AnomalyKind.PHANTOM.value] == 0
    assert report["observed"]["queries_ok"] > 0
    assert duplicated[0] in {anomaly["id"] for anomaly in report["listed"][AnomalyKind.DUPLICATE.value]}
    assert_files_agree(tmp_path, report)


def repeat_last_response(settings: Settings) -> str:
    """Write one response again, byte for byte. Returns its query id."""
    consumer = clients.groupless_consumer(settings, "test-duplicate")
    partition, deadline = _with_records(consumer), time.monotonic() + 60
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    records: list[Any] = []
    while not records and time.monotonic() < deadline:
        records = [record for batch in consumer.poll(timeout_ms=500).values() for record in batch]
    consumer.close()
    producer = clients.producer(settings, "test-duplicate")
    producer.send(RESPONSES.name, key=records[0].key, value=records[0].value, headers=list(records[0].headers), partition=partition.partition)
    producer.flush(timeout=60)
    producer.close(timeout=10)
    return str(json.loads(records[0].value)["query_id"])


def _with_records(consumer: KafkaConsumer) -> TopicPartition:
    partitions = [TopicPartition(RESPONSES.name, number) for number in consumer.partitions_for_topic(RESPONSES.name)]
    return next(partition for partition, end in consumer.end_offsets(partitions).items() if end > 0)


def assert_files_agree(out: Path, report: dict[str, Any]) -> None:
    written = json.loads((out / REPORT).read_text())
    assert written["anomalies"] == report["anomalies"]
    assert (out / PICTURE).stat().st_size > 10_000
    assert sum(record.topic == "queries" and record.outcome == "ok" for record in read_sent(out / "ledger.jsonl")) == report["observed"]["queries_ok"]
    assert sum(record.topic == RESPONSES.name for record in read_seen(out / "seen.jsonl")) == report["observed"]["records_responses"]


def test_ctrl_c_while_a_process_is_paused_leaves_nothing_behind(tmp_path: Path, tag: str) -> None:
    command = [str(Path(sys.executable).parent / "retouch"), "lab", "chaos", "--minutes", "1", "--seed", str(PAUSES_FIRST), "--out", str(tmp_path)]
    with (tmp_path / "output").open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while not any(_is_stopped(one) for one in tagged(tag)):
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "output").read_text()
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_TIMEOUT_S) == 130, (tmp_path / "output").read_text()
    until_nothing_is_left(tag)
    assert holder(lock_path(tmp_path / "state")) is None


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False
