"""Which rights are declared, and as which commands they are printed."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from cli.app import app
from infra.kafka.acl_commands import commands
from infra.kafka.rights import PLATFORM, PROCESSES, Operation, Resource, Right, idempotent_write, process_rights
from infra.settings import Settings
from schemas.topics import TOPICS, declared_names
from streams.app.topology import CONSUMED, PRODUCED

PREFIXED = Settings().changed(kafka={"topic_prefix": "team.", "group_prefix": "group."})


def test_the_streams_process_has_the_rights_on_the_topics_that_it_checks() -> None:
    by_operation = {
        operation: {right.name for right in process_rights(Settings(), "streams") if (right.resource, right.operation) == (Resource.TOPIC, operation)}
        for operation in (Operation.READ, Operation.WRITE)
    }
    changelog = {"retouch-streams-halves-changelog"}
    assert by_operation[Operation.READ] == set(CONSUMED) | changelog
    assert by_operation[Operation.WRITE] == {*PRODUCED, "interactions", "feedback"} | changelog


def test_every_topic_has_a_process_that_writes_it_and_one_that_reads_it() -> None:
    """So a new topic needs a process here, and a new process its entry."""
    for operation in (Operation.READ, Operation.WRITE):
        used = {right.name for process in PROCESSES if process != "retouch" for right in process_rights(Settings(), process) if right.operation is operation}
        assert {topic.name for topic in TOPICS} <= used
    applied = {right.name for right in process_rights(Settings(), "retouch topics apply")}
    assert applied == set(declared_names())


def test_only_who_applies_the_topology_creates_topics() -> None:
    creators = {process for process in PROCESSES if any(right.operation is Operation.CREATE for right in process_rights(Settings(), process))}
    assert creators == {"retouch topics apply"}


@pytest.mark.parametrize("process", PROCESSES)
def test_every_name_has_its_prefix(process: str) -> None:
    rights = process_rights(PREFIXED, process)
    assert bool(rights) is (process != "workers sources")  # which runs with a file only (test_platform_topic_names.py)
    assert all(right.name.startswith("team." if right.resource is Resource.TOPIC else "group.") for right in rights)
    assert len(set(rights)) == len(rights)


def test_a_worker_without_transactions_has_no_transactional_id() -> None:
    plain = Settings().changed(workers={"delivery": "at_least_once"})
    assert any(right.resource is Resource.TRANSACTIONAL_ID for right in process_rights(Settings(), "workers base"))
    assert not any(right.resource is Resource.TRANSACTIONAL_ID for right in process_rights(plain, "workers base"))
    assert [str(right) for right in idempotent_write(plain, "workers base")] == ["IDEMPOTENT_WRITE on cluster kafka-cluster"]
    assert idempotent_write(Settings(), "workers base") == ()


def test_rights_with_equal_operations_share_a_command() -> None:
    rights = [
        Right(Resource.TOPIC, "a", Operation.READ),
        Right(Resource.TOPIC, "b", Operation.READ),
        Right(Resource.TOPIC, "b", Operation.DESCRIBE_CONFIGS),
        Right(Resource.TRANSACTIONAL_ID, "t-", Operation.WRITE, is_prefix=True),
        Right(Resource.CLUSTER, "kafka-cluster", Operation.IDEMPOTENT_WRITE),
        Right(Resource.TOPIC, "c", Operation.READ),
    ]
    tool = "kafka-acls.sh --bootstrap-server kafka:9092 --add --force --allow-principal 'User:ada lovelace'"
    assert commands("User:ada lovelace", rights, ["--bootstrap-server", "kafka:9092"]) == [
        f"{tool} --operation Read --topic a --topic c",
        f"{tool} --operation Read --operation DescribeConfigs --topic b",
        f"{tool} --operation Write --resource-pattern-type prefixed --transactional-id t-",
        f"{tool} --operation IdempotentWrite --cluster",
    ]


def test_a_name_that_begins_with_a_hyphen_is_no_option() -> None:
    (command,) = commands("User:ada", [Right(Resource.TOPIC, "-a", Operation.READ), Right(Resource.TOPIC, "b", Operation.READ)], [])
    assert shlex.split(command)[-3:] == ["--topic=-a", "--topic", "b"]


def test_a_comment_says_what_is_missing_in_the_commands() -> None:
    arguments = ["topics", "acls", "--principal", "User:ada", "--bootstrap-server", "kafka:9092", "--process", "workers sources", "--process", "platform"]
    lines = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# workers sources: no rights, because sources.file is not set",
        "# platform: without its consumer group, which --platform-group names",
    ]


def test_commands_and_json_hold_the_same_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_KAFKA__TOPIC_PREFIX", "team.")
    arguments = ["topics", "acls", "--principal", "User:ada", "--process", "streams quality", "--process", "platform", "--platform-group", "shop"]
    printed = CliRunner().invoke(app, [*arguments, "--bootstrap-server", "kafka:9092", "--command-config", "admin.properties"])
    assert printed.exit_code == 0, printed.output
    lines = printed.stdout.splitlines()
    assert [line for line in lines if line.startswith("#")] == ["# streams quality", "# platform"]
    words = [shlex.split(line) for line in lines if not line.startswith("#")]
    assert all(line[:5] == ["kafka-acls.sh", "--bootstrap-server", "kafka:9092", "--command-config", "admin.properties"] for line in words)
    data = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert list(data) == ["streams quality", PLATFORM] and not any(right["optional"] for rights in data.values() for right in rights)
    names = [word for line in words for option, word in pairwise(line) if option in ("--topic", "--group")]
    assert sorted(names) == sorted(right["name"] for rights in data.values() for right in rights)
    assert {"shop", "team.responses", "team.quality", "retouch-quality"} <= set(names)
    optional = json.loads(CliRunner().invoke(app, [*arguments, "--optional", "--json"]).stdout)
    assert {right["operation"] for right in optional["streams quality"] if right["optional"]} == {"DESCRIBE_CONFIGS"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--principal", "User:a", "--process", "stream"], "--process stream: must be one of streams, streams quality, workers base"),
        (["--principal", "ada"], "--principal ada: must be a type and a name, such as User:retouch"),
        (["--principal", ":ada"], "--principal :ada: must be a type and a name, such as User:retouch"),
        (["--principal", "User:a\nb"], "--principal 'User:a\\nb': must be one line without control characters"),
        (["--principal", "User:a", "--platform-group", "shop\n"], "--platform-group 'shop\\n': must be one line without control characters"),
    ],
)
def test_wrong_use_says_what_would_be_right(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(app, ["topics", "acls", *arguments])
    assert result.exit_code == 2 and text in result.output
