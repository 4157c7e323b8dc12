"""`retouch models` against a promoter that serves a desk in memory: what it prints, asks for and returns."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import models_tables
from cli.app import app
from cli.diff_output import show_difference
from cli.models_actions import wait_until_served
from infra.errors import RetryLater
from infra.process.ports import free_port
from infra.settings import load
from schemas.promotion_view import PromotionView
from tests.support import memory_promoter
from trainer.judge import difference
from trainer.promotion.web import serve

TOKEN = "an operator's token"


def models(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["models", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[memory_promoter.MemoryPromoter]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETOUCH_PROMOTION__OPERATOR_TOKEN", TOKEN)
    desk = memory_promoter.MemoryPromoter(memory_promoter.example_view())
    with serve(load(), desk, threading.Event()) as server:
        monkeypatch.setenv("RETOUCH_PROMOTION__URL", server.url)
        yield desk


def test_the_list_names_state_gate_and_what_users_say(desk: memory_promoter.MemoryPromoter) -> None:
    code, output, _ = models("list")
    rows = {line.split()[0]: line for line in output.splitlines()}
    assert code == 0 and "champion" in rows["4"] and "rejected: significantly worse" in rows["2"] and "not judged yet" in rows["6"]
    assert "0.812 [0.801, 0.826] canary" in rows["5"]
    found = json.loads(models("list", "--json")[1])
    assert [version["version"] for version in found] == ["1", "2", "3", "4", "5", "6"]
    assert (found[4]["name"], found[4]["state"], found[4]["online"][0]["arm"]) == ("retouch-reflector", "canary", "canary")


def test_a_version_is_shown_with_all_that_happened_to_it(desk: memory_promoter.MemoryPromoter) -> None:
    code, output, _ = models("show", "5")
    assert (
        code == 0
        and "gated -> shadow" in output
        and "candidate.score" in output
        and "ef2d127de37b942baad06145e54b0c619a1f22327b2ebbcfbec78f5564afe39d" in output
    )
    assert len(json.loads(models("show", "5", "--json")[1])["transitions"]) == 3


def test_history_is_in_the_order_in_which_things_happened(desk: memory_promoter.MemoryPromoter) -> None:
    steps = json.loads(models("history", "--json")[1])
    assert [step["at"] for step in steps] == sorted(step["at"] for step in steps) and steps[0]["actor"] == "bootstrap"
    code, output, _ = models("history", "2")
    assert code == 0 and "registered -> rejected" in output and "users 214" in output
    assert models("history", "6")[1] == "nothing has happened to version 6 yet\n"


def test_a_promotion_says_what_will_happen_and_what_did(desk: memory_promoter.MemoryPromoter) -> None:
    code, output, _ = models("promote", "--version", "5", "--operator", "ada", "--reason", "better")
    assert code == 0 and output.splitlines() == [
        "version 5 is to answer everybody in place of version 4, which retires",
        "version 5: canary -> champion, by ada",
    ]
    assert desk.state["transitions"][1]["reason"] == "better" and desk.state["champion"] == "5"


def test_a_rejection_is_told_as_the_transition(desk: memory_promoter.MemoryPromoter) -> None:
    code, output, _ = models("reject", "--version", "6", "--json")
    told = json.loads(output)
    assert code == 0 and (told["version"], told["before"], told["after"]) == ("6", "registered", "rejected") and told["actor"]


def test_a_rollback_waits_until_the_workers_serve_the_old_version(desk: memory_promoter.MemoryPromoter) -> None:
    code, output, _ = models("rollback", "--reason", "complaints", "--json")
    told = json.loads(output)
    assert code == 0 and (told["version"], told["rolls_back"], desk.state["champion"]) == ("3", True, "3")
    assert told["served"]["workers"] == told["served"]["serving"] == 2 and told["served"]["first_s"] is not None
    code, output, _ = models("rollback", "--to", "1")
    assert code == 0 and "version 1 served again" in output and output.splitlines()[0].startswith("version 3 is to be given up for good")


def test_a_rollback_that_is_asked_for_again_gives_up_no_second_version(desk: memory_promoter.MemoryPromoter, monkeypatch: pytest.MonkeyPatch) -> None:
    def done_unheard(*asked: str) -> dict[str, object]:
        unpatched(*asked)
        raise RetryLater("the registry does not answer")

    unpatched = desk.rollback
    monkeypatch.setattr(desk, "rollback", done_unheard)
    code, _, error = models("rollback")
    assert code == 1 and "may have been done all the same" in error and "--version 4" in error and desk.state["champion"] == "3"
    monkeypatch.setattr(desk, "rollback", unpatched)
    code, _, error = models("rollback", "--version", "4")
    assert code == 1 and "4 was confirmed, but the version is 3" in error and desk.state["champion"] == "3"
    assert models("rollback", "--version", "3")[0] == 0 and desk.state["champion"] == "1"


def test_a_rollback_that_no_worker_follows_is_known_within_a_bound(desk: memory_promoter.MemoryPromoter) -> None:
    desk.workers_follow = False
    desk.rollback(None, "4", "ada", "")
    told = wait_until_served(desk, "3", time.monotonic(), within_s=0.3)
    assert told["first_s"] is None and told["all_s"] is None and (told["serving"], told["workers"]) == (0, 2)


def test_where_no_worker_reports_none_is_waited_for(desk: memory_promoter.MemoryPromoter) -> None:
    desk.state["workers"] = []
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
def test_what_cannot_be_is_one_line(desk: memory_promoter.MemoryPromoter, arguments: list[str], code: int, words: str) -> None:
    found, _, error = models(*arguments)
    assert found == code and words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["promote"], ["promote", "--version", "x"], ["reject", "--version", "0"], ["show"], ["diff", "1"], ["rollback", "--to", "-1"]]
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    assert models(*arguments)[0] == 2


def test_with_a_wrong_token_nothing_changes(desk: memory_promoter.MemoryPromoter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_PROMOTION__OPERATOR_TOKEN", "not the operator's one")
    code, _, error = models("promote", "--version", "5")
    assert code == 1 and "promotion.operator_token" in error and error.count("\n") == 1 and desk.state["champion"] == "4"


def test_a_promoter_that_is_away_is_one_line(desk: memory_promoter.MemoryPromoter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_PROMOTION__URL", f"http://127.0.0.1:{free_port('127.0.0.1')}")
    for command in ("list", "watch"):
        code, output, error = models(command)
        assert code == 1 and not output and "does not answer" in error and error.count("\n") == 1


def test_nothing_registered_is_said(desk: memory_promoter.MemoryPromoter) -> None:
    desk.state = memory_promoter.empty_view()
    assert models("list")[1].startswith("no version is registered") and json.loads(models("list", "--json")[1]) == []
    assert models("history") == (0, "nothing has happened yet\n", "")
    assert "no version is champion yet; none is tried" in models("watch")[1]
    assert models("show", "1")[2] == "retouch: retouch-reflector has no version 1; none is registered\n"


def test_what_is_watched_outside_a_terminal_is_shown_once(desk: memory_promoter.MemoryPromoter) -> None:
    code, output, _ = models("watch")
    assert code == 0 and "version 4 serves; version 5 is in canary: running" in output
    for part in ("canary of version 5, 10%", "guardrails", "x1.540 [1.410, 1.680]", "reflection-host-2", "transitions"):
        assert part in output
    code, output, _ = models("watch", "--json")
    assert code == 0 and PromotionView.model_validate_json(output) == desk.view() and output.count("\n") == 1


def test_what_others_wrote_commands_no_terminal(desk: memory_promoter.MemoryPromoter) -> None:
    hostile = "\x1b[2J\x1b]0;title\x07\x9b2J gone"
    odd, told = desk.state["versions"][1], desk.state["workers"][0]
    odd["transitions"][0]["reason"] = odd["parent"] = odd["digest"] = odd["dataset_digest"] = odd["tags"]["note"] = told["worker"] = hostile
    odd["offset_ranges"] = {hostile: {hostile: [0, 9]}}
    desk.state["quality"][0]["domain"] = desk.state["experiment"]["verdict"]["reason"] = told["loaded"][0]["version"] = hostile
    for command in (["list"], ["history"], ["watch"], ["show", "2"]):
        output = models(*command)[1]
        assert "gone" in output and not {"\x1b", "\x07", "\x9b"} & set(output), command
    desk.trouble = RetryLater(hostile)
    error = models("promote", "--version", "5", "--json")[2]
    assert "gone" in error and not {"\x1b", "\x07", "\x9b"} & set(error)


def test_a_registry_that_is_away_is_one_line(desk: memory_promoter.MemoryPromoter) -> None:
    desk.trouble = RetryLater("the registry does not answer")
    code, _, error = models("history")
    assert code == 1 and "the registry does not answer" in error and error.count("\n") == 1


def test_a_difference_is_text_and_with_json_all_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"metric": "rouge", "users": 40, "cases": 160, "a": 0.71, "b": 0.74, "difference": [0.03, 0.01, 0.05]}
    told = {name: {"version": number, "state": "gated"} for name, number in (("a", "4"), ("b", "5"))}
    found = told | {"way": "gate", "k": 4, "overall": one, "domains": {}, "slices": {}, "fallen_back": {}, "samples": []}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(difference, "compare_versions", lambda settings, a, b, samples: found | {"asked": [a, b, samples]})
    code, output, _ = models("diff", "4", "5", "--samples", "0", "--json")
    assert code == 0 and json.loads(output) == found | {"asked": ["4", "5", 0]}
    code, output, _ = models("diff", "4", "5")
    assert code == 0 and output.startswith("version 4 (gated) and version 5 (gated), by the gate") and "+0.030 [+0.010, +0.050]" in output


def test_a_difference_names_what_is_better_and_shows_answers_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    one = {"metric": "rouge", "users": 40, "cases": 160, "a": 0.71, "b": 0.74, "difference": [0.03, 0.01, 0.05]}
    few = one | {"difference": [-0.01, -0.04, 0.02]}
    sample = {"domain": "reviews", "question": "q\x1b[2J", "draft": "fine", "truth": "superb!", "items": 4, "a": "good", "b": "superb", "k": 4}
    told = {name: {"name": "r", "version": number, "digest": "d", "state": state} for name, number, state in (("a", "4", "champion"), ("b", "5", "canary"))}
    figures = {"way": "gate", "k": 4, "overall": one, "domains": {"reviews": few}, "slices": {"few items": one}, "fallen_back": {"a": 0.01, "b": 0.02}}
    show_difference(told | figures | {"samples": [sample]})
    output = capsys.readouterr().out
    rows = {line.split("  ")[0]: line for line in output.splitlines()}
    assert "version 4 (champion) and version 5 (canary), by the gate" in output and "\x1b" not in output
    assert "+0.030 [+0.010, +0.050]" in rows["all"] and rows["all"].rstrip().endswith("better")
    assert "not told apart" in rows["reviews"] and "better" in rows["slice few items"]
    assert "superb!" in rows["the user's own"] and "superb" in rows["version 5"]


def test_figures_that_are_not_known_are_dashes() -> None:
    assert models_tables.interval(None, None, None) == "-" and models_tables.number(float("inf")) == "-"
