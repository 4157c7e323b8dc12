"""`retouch models` against a promoter in memory: output, requests and exit codes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import models_actions, models_tables
from cli.app import app
from cli.diff_output import show_difference
from cli.models_actions import wait_until_served
from infra.errors import RetryLater
from infra.process.ports import free_port
from infra.settings import load
from schemas.promotion_view import PromotionView
from tests.support import memory_promoter
from trainer.judge import difference
from trainer.promotion.operator_commands import OperatorCommand
from trainer.promotion.web import serve

TOKEN = "an operator's token"


def models(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["models", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def promoter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[memory_promoter.MemoryPromoter]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETOUCH_PROMOTION__OPERATOR_TOKEN", TOKEN)
    promoter = memory_promoter.MemoryPromoter(memory_promoter.example_view())
    with serve(load(), promoter, threading.Event()) as server:
        monkeypatch.setenv("RETOUCH_PROMOTION__URL", server.url)
        yield promoter


def test_the_list_shows_state_gate_and_online_reward(promoter: memory_promoter.MemoryPromoter) -> None:
    code, output, _ = models("list")
    rows = {line.split()[0]: line for line in output.splitlines()}
    assert code == 0 and "champion" in rows["4"] and "rejected: significantly worse" in rows["2"] and "not judged yet" in rows["6"]
    assert "0.812 [0.801, 0.826] canary" in rows["5"]
    versions = json.loads(models("list", "--json")[1])
    assert [version["version"] for version in versions] == ["1", "2", "3", "4", "5", "6"]
    assert (versions[4]["name"], versions[4]["state"], versions[4]["online"][0]["arm"]) == ("retouch-reflector", "canary", "canary")


def test_a_version_is_shown_with_its_transitions(promoter: memory_promoter.MemoryPromoter) -> None:
    code, output, _ = models("show", "5")
    assert (
        code == 0
        and "gated -> shadow" in output
        and "candidate.score" in output
        and "ef2d127de37b942baad06145e54b0c619a1f22327b2ebbcfbec78f5564afe39d" in output
    )
    assert len(json.loads(models("show", "5", "--json")[1])["transitions"]) == 3


def test_history_is_in_order_of_time(promoter: memory_promoter.MemoryPromoter) -> None:
    steps = json.loads(models("history", "--json")[1])
    assert [step["at"] for step in steps] == sorted(step["at"] for step in steps) and steps[0]["actor"] == "bootstrap"
    code, output, _ = models("history", "2")
    assert code == 0 and "registered -> rejected" in output and "users 214" in output
    assert models("history", "6")[1] == "version 6 has no transitions yet\n"


def test_a_promotion_prints_what_it_will_do_and_the_transition(promoter: memory_promoter.MemoryPromoter) -> None:
    code, output, _ = models("promote", "--version", "5", "--operator", "ada", "--reason", "better")
    assert code == 0 and output.splitlines() == [
        "version 5 becomes champion in place of version 4, which retires",
        "version 5: canary -> champion, by ada",
    ]
    assert promoter.state["transitions"][1]["reason"] == "better" and promoter.state["champion"] == "5"


def test_a_rejection_prints_the_transition(promoter: memory_promoter.MemoryPromoter) -> None:
    code, output, _ = models("reject", "--version", "6", "--json")
    output = json.loads(output)
    assert code == 0 and (output["version"], output["before"], output["after"]) == ("6", "registered", "rejected") and output["actor"]


def test_a_rollback_waits_until_the_workers_serve_the_former_champion(promoter: memory_promoter.MemoryPromoter) -> None:
    code, output, _ = models("rollback", "--reason", "complaints", "--json")
    output = json.loads(output)
    assert code == 0 and (output["version"], output["rolls_back"], promoter.state["champion"]) == ("3", True, "3")
    assert output["served"]["workers"] == output["served"]["serving"] == 2 and output["served"]["first_s"] is not None
    code, output, _ = models("rollback", "--to", "1")
    assert code == 0 and "version 1 served again" in output and output.splitlines()[0].startswith("version 3 will be rejected, which is final")


@pytest.mark.parametrize(
    ("arguments", "champion", "result"),
    [
        (["promote", "--version", "5"], "5", ("5", "champion")),
        (["reject", "--version", "6"], "4", ("6", "rejected")),
        (["rollback", "--version", "4"], "3", ("3", "champion")),
    ],
)
def test_a_command_whose_answer_did_not_come_succeeds_if_its_transition_is_there(
    promoter: memory_promoter.MemoryPromoter, monkeypatch: pytest.MonkeyPatch, arguments: list[str], champion: str, result: tuple[str, str]
) -> None:
    def made_without_answer(command: OperatorCommand) -> None:
        unpatched(command)
        raise RetryLater("the registry does not answer")

    unpatched = promoter.execute
    monkeypatch.setattr(promoter, "execute", made_without_answer)
    code, output, error = models(*arguments, "--reason", "slow", "--json")
    made = json.loads(output)
    assert (code, error, promoter.state["champion"], (made["version"], made["after"])) == (0, "", champion, result)


def test_a_command_without_an_answer_or_a_transition_says_how_to_repeat_it(promoter: memory_promoter.MemoryPromoter, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(command: OperatorCommand) -> None:
        raise RetryLater("the registry does not answer")

    monkeypatch.setattr(promoter, "execute", lost)
    monkeypatch.setattr(models_actions, "CONFIRMED_WITHIN_S", 0.5)
    code, _, error = models("rollback")
    assert code == 1 and "no such transition appeared within 0.5 s" in error and "`retouch models rollback --version 4`" in error
    assert promoter.state["champion"] == "4"


def test_a_repeated_rollback_rejects_no_second_version(promoter: memory_promoter.MemoryPromoter) -> None:
    assert models("rollback")[0] == 0 and promoter.state["champion"] == "3"
    code, _, error = models("rollback", "--version", "4")
    assert code == 1 and "4 was confirmed, but the version is 3" in error and promoter.state["champion"] == "3"
    assert models("rollback", "--version", "3")[0] == 0 and promoter.state["champion"] == "1"


def test_a_rollback_that_no_worker_follows_ends_within_a_bound(promoter: memory_promoter.MemoryPromoter) -> None:
    promoter.workers_follow = False
    promoter.execute(OperatorCommand("rollback", "4", "ada", ""))
    served = wait_until_served(promoter, "3", time.monotonic(), within_s=0.3)
    assert served == (None, None, 2, 0)


def test_a_rollback_without_reporting_workers_does_not_wait(promoter: memory_promoter.MemoryPromoter) -> None:
    promoter.state["workers"] = []
    code, output, _ = models("rollback")
    assert code == 0 and "no worker reports" in output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["promote", "--version", "2"], 1, "version 2 is rejected already"),
        (["show", "9"], 1, "retouch-reflector has no version 9; there are 1, 2, 3, 4, 5, 6"),
        (["history", "9"], 1, "has no version 9"),
        (["rollback", "--to", "2"], 1, "no such former champion"),
        (["promote", "--version", "5", "--operator", "x" * 65], 1, "operator: "),
    ],
)
def test_a_refusal_is_one_line(promoter: memory_promoter.MemoryPromoter, arguments: list[str], code: int, words: str) -> None:
    exit_code, _, error = models(*arguments)
    assert exit_code == code and words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["promote"], ["promote", "--version", "x"], ["reject", "--version", "0"], ["show"], ["diff", "1"], ["rollback", "--to", "-1"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert models(*arguments)[0] == 2


def test_with_a_wrong_token_nothing_changes(promoter: memory_promoter.MemoryPromoter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_PROMOTION__OPERATOR_TOKEN", "not the operator's one")
    code, _, error = models("promote", "--version", "5")
    assert code == 1 and "promotion.operator_token" in error and error.count("\n") == 1 and promoter.state["champion"] == "4"


def test_a_promoter_that_does_not_answer_is_one_line(promoter: memory_promoter.MemoryPromoter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_PROMOTION__URL", f"http://127.0.0.1:{free_port('127.0.0.1')}")
    for command in ("list", "watch"):
        code, output, error = models(command)
        assert code == 1 and not output and "does not answer" in error and error.count("\n") == 1


def test_an_empty_registry_is_reported(promoter: memory_promoter.MemoryPromoter) -> None:
    promoter.state = memory_promoter.empty_view()
    assert models("list")[1].startswith("no version is registered") and json.loads(models("list", "--json")[1]) == []
    assert models("history") == (0, "there are no transitions yet\n", "")
    assert "no version is champion yet; no experiment runs" in models("watch")[1]
    assert models("show", "1")[2] == "retouch: retouch-reflector has no version 1; none is registered\n"


def test_watch_prints_once_outside_a_terminal(promoter: memory_promoter.MemoryPromoter) -> None:
    code, output, _ = models("watch")
    assert code == 0 and "version 4 serves; version 5 is in canary: running" in output
    for part in ("canary of version 5, 10%", "guardrails", "x1.540 [1.410, 1.680]", "reflection-host-2", "transitions"):
        assert part in output
    code, output, _ = models("watch", "--json")
    assert code == 0 and PromotionView.model_validate_json(output) == promoter.view() and output.count("\n") == 1


def test_control_characters_do_not_reach_the_terminal(promoter: memory_promoter.MemoryPromoter, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "\x1b[2J\x1b]0;title\x07\x9b2J gone"
    version, report = promoter.state["versions"][1], promoter.state["workers"][0]
    version["transitions"][0]["reason"] = version["parent"] = version["digest"] = version["dataset_digest"] = version["tags"]["note"] = report["worker"] = (
        hostile
    )
    version["offset_ranges"] = {hostile: {hostile: [0, 9]}}
    promoter.state["quality"][0]["domain"] = promoter.state["experiment"]["verdict"]["reason"] = report["loaded"][0]["version"] = hostile
    for command in (["list"], ["history"], ["watch"], ["show", "2"]):
        output = models(*command)[1]
        assert "gone" in output and not {"\x1b", "\x07", "\x9b"} & set(output), command
    monkeypatch.setattr(models_actions, "CONFIRMED_WITHIN_S", 0.5)
    promoter.trouble = RetryLater(hostile)
    error = models("promote", "--version", "5", "--json")[2]
    assert "gone" in error and not {"\x1b", "\x07", "\x9b"} & set(error)


def test_a_registry_that_does_not_answer_is_one_line(promoter: memory_promoter.MemoryPromoter) -> None:
    promoter.trouble = RetryLater("the registry does not answer")
    code, _, error = models("history")
    assert code == 1 and "the registry does not answer" in error and error.count("\n") == 1


def test_a_difference_is_printed_as_text_or_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overall = {"metric": "rouge", "users": 40, "cases": 160, "a": 0.71, "b": 0.74, "difference": [0.03, 0.01, 0.05]}
    versions = {name: {"version": number, "state": "gated"} for name, number in (("a", "4"), ("b", "5"))}
    comparison = versions | {"way": "gate", "k": 4, "overall": overall, "domains": {}, "slices": {}, "fallen_back": {}, "samples": []}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(difference, "compare_versions", lambda settings, a, b, samples: comparison | {"asked": [a, b, samples]})
    code, output, _ = models("diff", "4", "5", "--samples", "0", "--json")
    assert code == 0 and json.loads(output) == comparison | {"asked": ["4", "5", 0]}
    code, output, _ = models("diff", "4", "5")
    assert code == 0 and output.startswith("version 4 (gated) and version 5 (gated), by the gate") and "+0.030 [+0.010, +0.050]" in output


def test_a_difference_names_the_better_version_and_shows_answers_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    overall = {"metric": "rouge", "users": 40, "cases": 160, "a": 0.71, "b": 0.74, "difference": [0.03, 0.01, 0.05]}
    few = overall | {"difference": [-0.01, -0.04, 0.02]}
    sample = {"domain": "reviews", "question": "q\x1b[2J", "draft": "fine", "truth": "superb!", "items": 4, "a": "good", "b": "superb", "k": 4}
    versions = {name: {"name": "r", "version": number, "digest": "d", "state": state} for name, number, state in (("a", "4", "champion"), ("b", "5", "canary"))}
    figures = {"way": "gate", "k": 4, "overall": overall, "domains": {"reviews": few}, "slices": {"few items": overall}, "fallen_back": {"a": 0.01, "b": 0.02}}
    show_difference(versions | figures | {"samples": [sample]})
    output = capsys.readouterr().out
    rows = {line.split("  ")[0]: line for line in output.splitlines()}
    assert "version 4 (champion) and version 5 (canary), by the gate" in output and "\x1b" not in output
    assert "+0.030 [+0.010, +0.050]" in rows["all"] and rows["all"].rstrip().endswith("better")
    assert "no significant difference" in rows["reviews"] and "better" in rows["slice few items"]
    assert "superb!" in rows["the user's own"] and "superb" in rows["version 5"]


def test_unknown_figures_are_dashes() -> None:
    assert models_tables.interval(None, None, None) == "-" and models_tables.number(float("inf")) == "-"
