"""Contract of the command line: exit codes, errors of one line, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import DataFormat, app
from cli.strategies_commands import StrategyName
from infra.errors import BadSetting, CannotContinue
from infra.process.command_output import exit_code_of
from infra.settings import Settings
from schemas.strategies import Strategy

COMMANDS = (
    *("demo", "up", "status", "down", "replay", "evaluate", "ask", "profile", "train", "train status", "topics apply", "topics describe"),
    *(f"models {name}" for name in ("list", "show", "promote", "reject", "rollback", "diff", "history", "watch")),
    *("config check", "config print", "lab chaos", "lab promotion", "dlq list", "dlq show", "dlq redrive", "index rebuild", "index alias"),
)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_json_and_documents_its_exit_codes(command: str) -> None:
    code, output, _ = run(*command.split(), "--help")
    assert code == 0
    assert "--json" in output and "Exit codes: 0 " in " ".join(output.split())


@pytest.mark.parametrize(
    "arguments",
    [["bogus"], ["ask"], ["ask", "x"], ["replay"], ["replay", "x", "--format", "csv"], ["train", "--once", "--dry-run"], ["train", "--once", "status"]],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments)[0] == 2


@pytest.mark.parametrize("command", ["status", "topics describe", "config check", "config print", "demo"])
def test_an_impossible_setting_exits_with_2_and_one_line(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_KAFKA__PARTITIONS", "none")
    code, output, error = run(*command.split())
    assert (code, output) == (2, "")
    assert error.startswith("retouch: kafka.partitions='none': ") and error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["topics", "describe"], ["topics", "apply"], ["ask", "text", "--user", "ada"]])
def test_without_a_broker_the_message_names_retouch_up(arguments: list[str]) -> None:
    code, _, error = run(*arguments)
    assert code == 2 and "retouch up" in error and error.count("\n") == 1


def test_an_impossible_user_is_named() -> None:
    code, _, error = run("ask", "text", "--user", "a/b")
    assert code == 2 and error.startswith("retouch: user: ")


@pytest.mark.parametrize("place", ["", "interactions", "interactions/0", "interactions/0/-1", "a b/0/1"])
def test_a_position_to_ask_after_is_topic_partition_and_offset(place: str) -> None:
    assert run("ask", "text", "--user", "ada", "--after", place) == (2, "", "retouch: --after must be topic/partition/offset, such as interactions/0/17\n")


def test_a_missing_path_is_named() -> None:
    assert run("replay", "nowhere") == (2, "", "retouch: nowhere: no such file or folder\n")


def test_without_a_stack_status_fails_and_down_does_nothing() -> None:
    assert run("status", "--json") == (1, '{\n "state": "down"\n}\n', "")
    code, output, _ = run("down", "--json")
    assert (code, json.loads(output)) == (0, {"was_running": False})


def test_the_settings_are_printed_with_sources_and_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    code, output, _ = run("config", "print", "--json")
    assert code == 0 and "sk-secret" not in output
    assert json.loads(output)["base.api_key"] == {"value": "**********", "source": "OPENAI_API_KEY"}


@pytest.mark.parametrize(
    ("error", "code"), [(BadSetting("k=v: no"), 2), (CannotContinue("gone"), 1), (KeyboardInterrupt("interrupted"), 130)], ids=("setting", "state", "interrupt")
)
def test_expected_errors_become_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def body(settings: Settings) -> int:
        raise error

    assert exit_code_of(body) == code
    assert capsys.readouterr().err == f"retouch: {error}\n"


def test_the_strategies_are_those_of_the_messages() -> None:
    assert {strategy.value for strategy in StrategyName} == {strategy.value for strategy in Strategy}


def test_help_imports_nothing_slow() -> None:
    code = "import cli, sys; print([n for n in ('kafka', 'torch', 'mlflow', 'pydantic', 'infra.settings', 'psutil') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_replay_formats_are_those_of_the_catalog() -> None:
    from traffic.datasets.catalog import FORMATS

    assert {str(format) for format in DataFormat} - {"auto"} == set(FORMATS)
