"""What `retouch bench quality` refuses before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.quality.command import QualityOptions, _check, _other_run, _state
from bench.quality.questions import Material, Sizes
from bench.quality.run import RunState
from infra.errors import BadSetting, CannotContinue
from infra.settings import Settings
from tests.support.quality_benchmark import answer_log, question

MATERIAL = Material("a world", (), (), ())


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """The folder of a run that has begun."""
    _state(Settings(), QualityOptions(tmp_path), MATERIAL)
    (tmp_path / "answers.jsonl").touch()
    return tmp_path


def test_the_same_plan_continues_a_run(started: Path) -> None:
    _state(Settings(), QualityOptions(started), MATERIAL)
    assert (started / "answers.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "changes", "named"),
    [
        ({"seed": 1}, {}, "seed"),
        ({"sizes": Sizes(users=9)}, {}, "sizes"),
        ({}, {"base": {"model": "gpt-4o-mini"}}, "base.model"),
        ({}, {"trainer": {"holdout_share": 0.5}}, "trainer.holdout_share"),
        ({}, {"tenant": "other"}, "tenant"),
        ({}, {"base": {"url": "http://127.0.0.1:9/v1"}}, "base.url"),
        ({}, {"base": {"parameters": {"temperature": 1}}}, "base.parameters"),
        ({}, {"reflection": {"max_new_tokens": 5}}, "reflection.max_new_tokens"),
        ({}, {"strategies": {"rpm_examples": 5}}, "strategies.rpm_examples"),
        ({}, {"hydra": {"candidates": 5}}, "hydra.candidates"),
        ({}, {"teacher": {"max_reasoning_chars": 50}}, "teacher.max_reasoning_chars"),
        ({}, {"profiles": {"summary_items": 5}}, "profiles.summary_items"),
        ({}, {"trainer": {"sft": {"epochs": 5}}}, "trainer.sft.epochs"),
        ({}, {"trainer": {"rl": {"beta": 0.5}}}, "trainer.rl.beta"),
        ({}, {"trainer": {"lora": {"rank": 5}}}, "trainer.lora.rank"),
    ],
)
def test_another_plan_is_refused_by_what_differs(started: Path, options: dict[str, Any], changes: dict[str, Any], named: str) -> None:
    with pytest.raises(CannotContinue, match=f"another value of {named} "):
        _state(Settings(**changes), QualityOptions(started, **options), MATERIAL)
    assert (started / "answers.jsonl").exists()


def test_other_data_are_refused(started: Path) -> None:
    for lesson in (question(0, "a", "comedy"), question(0, "a", "action")):
        material = Material("a world", (), (lesson,), ())
        with pytest.raises(CannotContinue, match="another value of lessons, data_digest "):
            _state(Settings(), QualityOptions(started), material)


@pytest.mark.parametrize(
    "changes",
    [
        {"base": {"timeout_s": 9, "concurrency": 2, "api_key": "sk-1", "threads": 2}},
        {"trainer": {"threads": 2, "micro_tokens": 64, "sft": {"micro_batch": 2}}},
        {"strategies": {"weights": {"rag": 1.0}}},
    ],
)
def test_a_setting_that_changes_no_answer_may_change(started: Path, changes: dict[str, Any]) -> None:
    _state(Settings(**changes), QualityOptions(started), MATERIAL)


def test_the_plan_holds_no_secret(tmp_path: Path) -> None:
    _state(Settings.model_validate({"base": {"api_key": "sk-1234", "parameters": {"user_key": "sk-5678"}}}), QualityOptions(tmp_path), MATERIAL)
    text = (tmp_path / "plan.json").read_text()
    assert "base.parameters" in text and "sk-" not in text


def test_a_plan_of_an_older_version_is_compared_where_it_has_a_value(started: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads((started / "plan.json").read_text())
    (started / "plan.json").write_text(json.dumps({name: value for name, value in plan.items() if name not in ("tenant", "base.url")}))
    _state(Settings(tenant="other"), QualityOptions(started), MATERIAL)
    assert "does not hold 2 values that are compared, such as tenant" in capsys.readouterr().err
    with pytest.raises(CannotContinue, match=r"another value of base\.model "):
        _state(Settings().changed(base={"model": "other"}), QualityOptions(started), MATERIAL)


def test_a_state_of_an_older_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"history": true, "lessons": true, "versions": {"sft": "2", "full": "3"}, "seconds": {"start": 1.0}}')
    state = RunState.read(tmp_path / "state.json")
    assert (state.versions, state.lessons, state.asking) == ({"sft": "2", "rpo": "3"}, True, None)
    state.write()
    assert RunState.read(tmp_path / "state.json") == state


BROKEN = ["", "{", "[]", "null", "[" * 100_000, "\x00"]


@pytest.mark.parametrize("text", BROKEN)
def test_a_folder_with_a_broken_plan_is_refused_and_kept(started: Path, text: str) -> None:
    (started / "plan.json").write_text(text)
    with pytest.raises(CannotContinue, match=r"plan\.json is no plan of `retouch bench quality`"):
        _state(Settings(), QualityOptions(started), MATERIAL)
    assert (started / "answers.jsonl").exists()


@pytest.mark.parametrize("text", [*BROKEN, '{"versions": 3}', '{"lessons": "perhaps"}', '{"seconds": {"start": "long"}}'])
def test_a_folder_with_a_broken_state_is_refused(started: Path, text: str) -> None:
    (started / "state.json").write_text(text)
    with pytest.raises(CannotContinue, match=r"state\.json is no state of `retouch bench quality`"):
        _state(Settings(), QualityOptions(started), MATERIAL)


@pytest.mark.parametrize("gone", ["plan.json", "state/.retouch-state"])
def test_answers_without_the_rest_of_their_run_are_not_removed(started: Path, gone: str) -> None:
    (started / "answers.jsonl").write_text("{}\n")
    (started / gone).unlink()
    with pytest.raises(CannotContinue, match=r"answers\.jsonl holds answers, but .*, which their run needs to continue, is gone"):
        _state(Settings(), QualityOptions(started), MATERIAL)
    assert (started / "answers.jsonl").read_text() == "{}\n"


def test_another_run_is_read_if_it_asked_the_same_questions(started: Path) -> None:
    with pytest.raises(BadSetting, match=r"--against .*: its run has no answers yet"):
        _other_run(started, MATERIAL)
    answer_log([question(0, "a", "comedy")], {"rag": ["comedy"]}).save(started / "answers.jsonl")
    assert _other_run(started, MATERIAL).by_arm.keys() == {"rag"}
    with pytest.raises(BadSetting, match=r"--against .*: its run asked other questions; it needs the same --data"):
        _other_run(started, Material("a world", (), (question(0, "a", "comedy"),), ()))


@pytest.mark.parametrize("plan", [None, "", "[]", "{}"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, plan: str | None) -> None:
    if plan is not None:
        (tmp_path / "plan.json").write_text(plan)
    with pytest.raises(BadSetting, match="--against"):
        _other_run(tmp_path, MATERIAL)


def test_options_of_data_sets_are_refused_for_the_persona_world(tmp_path: Path) -> None:
    _check(Settings(), QualityOptions(tmp_path, data=tmp_path, sizes=Sizes(lessons=1)))
    with pytest.raises(BadSetting, match="--lessons, --last: only with --data"):
        _check(Settings(), QualityOptions(tmp_path, sizes=Sizes(users=9, lessons=1, last=2)))


def test_stores_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="must not be set"):
        _check(Settings().changed(kafka={"bootstrap_servers": "kafka:9092"}), QualityOptions(tmp_path))
