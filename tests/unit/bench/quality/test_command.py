"""What `retouch bench quality` refuses before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.quality.command import QualityOptions, _check, _state
from bench.quality.questions import Material, Sizes
from infra.errors import BadSetting, CannotContinue
from infra.settings import Settings

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
    ],
)
def test_another_plan_is_refused_by_what_differs(started: Path, options: dict[str, Any], changes: dict[str, Any], named: str) -> None:
    with pytest.raises(CannotContinue, match=f"another value of {named} "):
        _state(Settings().changed(**changes), QualityOptions(started, **options), MATERIAL)
    assert (started / "answers.jsonl").exists()


def test_a_plan_of_an_older_version_is_compared_where_it_has_a_value(started: Path) -> None:
    plan = json.loads((started / "plan.json").read_text())
    (started / "plan.json").write_text(json.dumps({name: value for name, value in plan.items() if name != "tenant"}))
    _state(Settings(tenant="other"), QualityOptions(started), MATERIAL)


def test_options_of_data_sets_are_refused_for_the_persona_world(tmp_path: Path) -> None:
    _check(Settings(), QualityOptions(tmp_path, data=tmp_path, sizes=Sizes(lessons=1)))
    with pytest.raises(BadSetting, match="--lessons, --last: only with --data"):
        _check(Settings(), QualityOptions(tmp_path, sizes=Sizes(users=9, lessons=1, last=2)))


def test_stores_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="must not be set"):
        _check(Settings().changed(kafka={"bootstrap_servers": "kafka:9092"}), QualityOptions(tmp_path))
