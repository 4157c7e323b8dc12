"""The examples of `docs/producers.md`, as they are printed, against a real broker, base worker and streams process: kcat, Kafka's console tools, kafkajs and
the CloudEvents SDK write records that keep the contract, get their response, and their feedback is joined with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from infra.kafka.contract_check import MISPLACED, ContractCheck
from infra.kafka.forwarding import Forwarder
from infra.kafka.topic_reader import OffsetRanges, TopicReader
from infra.settings import Settings, load
from schemas.envelope import read_message
from schemas.outcomes import Outcome
from schemas.queries import Query
from schemas.records import ConsumedRecord
from schemas.topics import FEEDBACK, INTERACTIONS, OUTCOMES, PLATFORM_TOPICS, QUERIES, Topic
from tests.support.openai_server import completion, serving
from tests.support.own_broker import own_broker
from tests.support.producer_examples import Example, examples
from tests.support.streams_process import running
from tests.support.worker_process import process

pytestmark = [pytest.mark.integration, pytest.mark.long("runs four clients beside their own broker and processes"), pytest.mark.timeout(600)]

CLIENTS = ["kcat", "Kafka's console tools", "kafkajs", "CloudEvents SDK"]
STRUCTURED = "Structured mode"
WAIT_S = 90.0


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A broker with a base worker that answers by itself, and a streams process."""
    folder = tmp_path_factory.mktemp("deployment")
    with own_broker(folder / "broker") as broker, ExitStack() as processes:
        settings = load(kafka={"bootstrap_servers": broker.bootstrap_servers}, stack={"dir": folder / "streams"})
        endpoint = processes.enter_context(serving(lambda _: completion("crime")))
        weights = {"RETOUCH_STRATEGIES__WEIGHTS": '{"zero_shot": 1}'}
        processes.enter_context(process(settings, folder, "workers", "base", base_url=endpoint.url, **weights))
        processes.enter_context(running(settings))
        yield settings


class Written:
    """The records that come to a topic from now on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ends = {partition: end for partition, (_, end) in self._ranges(*PLATFORM_TOPICS, OUTCOMES).items()}

    def _ranges(self, *topics: Topic) -> OffsetRanges:
        with TopicReader(self._settings, "test-ranges") as reader:
            return reader.ranges(*(topic.name for topic in topics))

    def records(self, topic: Topic) -> list[ConsumedRecord]:
        since = {partition: (self._ends[partition], end) for partition, (_, end) in self._ranges(topic).items()}
        with TopicReader(self._settings, "test-reader") as reader:
            read = list(reader.read(since))
        return [ConsumedRecord(each.topic, each.partition, each.offset, each.timestamp, each.key, each.value, each.headers) for each in read]

    def check(self, *topics: Topic) -> ContractCheck:
        partitions = self._settings.kafka.partitions
        check = ContractCheck(Forwarder(lambda _: partitions))
        for topic in topics:
            for record in self.records(topic):
                check.add(f"{topic.name}/{record.partition}/{record.offset}", record, topic.message)
        return check

    def outcome(self) -> Outcome:
        """The next one."""
        with TopicReader(self._settings, "test-outcomes") as reader:
            reader.follow(OUTCOMES.name, positions={partition: end for partition, end in self._ends.items() if partition.topic == OUTCOMES.name})
            for _ in range(int(WAIT_S / 0.2)):
                for record in reader.poll(0.2):
                    return read_message(Outcome, record.headers, record.value)[0]
        raise AssertionError(f"no outcome within {WAIT_S} s")


def run(example: Example, settings: Settings, folder: Path) -> str:
    if reason := example.missing():
        pytest.skip(reason)
    return example.run(settings.bootstrap_servers(), folder, settings.stack.cache_dir)


def test_every_example_of_the_page_is_run() -> None:
    assert list(examples()) == [*CLIENTS, STRUCTURED]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_clients_records_keep_the_contract_and_are_joined(client: str, deployment: Settings, tmp_path: Path) -> None:
    written = Written(deployment)
    printed = run(examples()[client], deployment, tmp_path)
    outcome = written.outcome()

    (record,) = written.records(QUERIES)
    query, _ = record.read(Query)
    assert str(query.query_id) in printed and "crime" in printed, "the example prints its response"
    assert outcome.response.context.draft.query == query and outcome.truth == "crime"
    check = written.check(*PLATFORM_TOPICS)
    assert check.findings == []
    assert len(written.records(INTERACTIONS)) >= 1 and len(written.records(FEEDBACK)) == 1


def test_a_structured_record_without_the_sdk_keeps_the_contract(deployment: Settings, tmp_path: Path) -> None:
    written = Written(deployment)
    run(examples()[STRUCTURED], deployment, tmp_path)
    check = written.check(QUERIES)
    assert (check.records, check.findings) == (1, [])


def test_kcat_with_its_own_partitioner_is_noted(deployment: Settings, tmp_path: Path) -> None:
    example = examples()[STRUCTURED]
    code = example.code.replace("-X partitioner=murmur2_random ", "").replace("ada", "bob")
    assert code.count("bob") == 2
    written = Written(deployment)
    run(replace(example, code=code), deployment, tmp_path)
    (finding,) = written.check(QUERIES).findings
    assert (finding.reason, finding.count) == (MISPLACED, 1)
