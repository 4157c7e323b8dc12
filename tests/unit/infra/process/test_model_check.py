"""No tiny model works unnoticed beside a real one, and no real one gets the tiny models' prompts."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from infra.checkpoints.size import VLLM_FROM_BYTES
from infra.errors import BadSetting
from infra.local.stack import Stack
from infra.process.command_output import OK, USAGE, exit_code_of
from infra.process.lifecycle import run_process
from infra.process.model_check import check_models, tiny_model_warnings
from infra.settings import Settings, load
from schemas.prompts import PromptStyle

URL = "http://127.0.0.1:9/v1"
PAPER = {"prompt_style": "paper"}
NO_RPO = {"weights": {"rag": 1}}


@pytest.fixture
def real(tmp_path: Path) -> str:
    return checkpoint(tmp_path / "real", VLLM_FROM_BYTES)


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A tiny checkpoint that is not one of the shipped ones."""
    return checkpoint(tmp_path / "own", 1000)


def checkpoint(folder: Path, size: int) -> str:
    """A folder with weights of this size, as a sparse file."""
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(size)
    return str(folder)


def settings_with(**sections: dict[str, Any]) -> Settings:
    settings: Settings = load(**sections)
    return settings


def test_a_real_reflection_model_needs_a_real_base_model(real: str, own: str) -> None:
    refused = r"reflection\.checkpoint=.*/real is a real model, but base\.url is empty.*base\.checkpoint=pico/checkpoints/base.*OPENAI_BASE_URL"
    with pytest.raises(BadSetting, match=refused):
        check_models(settings_with(reflection={"checkpoint": real} | PAPER))
    for base in ({"url": URL, "model": "m"}, {"checkpoint": real}, {"checkpoint": own}):
        check_models(settings_with(base=base | PAPER, reflection={"checkpoint": real} | PAPER))


def test_a_real_base_model_needs_a_real_reflection_model_where_rpo_answers(real: str, own: str) -> None:
    base = {"checkpoint": real} | PAPER
    with pytest.raises(BadSetting, match=r"base\.checkpoint=.*/real is a real model, but reflection\.checkpoint=pico/checkpoints/reflector.*without rpo"):
        check_models(settings_with(base=base))
    check_models(settings_with(base=base, reflection={"checkpoint": own}))
    check_models(settings_with(base=base, strategies=NO_RPO))


@pytest.mark.parametrize("section", ["base", "reflection"])
def test_a_real_model_needs_the_papers_prompts(section: str, real: str) -> None:
    styles = {"base": dict(PAPER), "reflection": dict(PAPER)}
    models = {name: {"checkpoint": real} | styles[name] for name in styles}
    check_models(settings_with(**models))
    models[section]["prompt_style"] = "compact"
    with pytest.raises(BadSetting, match=rf"^{section}\.prompt_style=compact, but {section}\.checkpoint=.*/real .*set {section}\.prompt_style=paper$"):
        check_models(settings_with(**models))


def test_the_tiny_base_model_does_not_answer_under_another_name(own: str) -> None:
    with pytest.raises(BadSetting, match=r"base\.checkpoint=pico/checkpoints/base would answer as base\.model=gpt-4o-mini: set OPENAI_BASE_URL"):
        check_models(settings_with(base={"model": "gpt-4o-mini"}))
    check_models(settings_with(base={"model": "gpt-4o-mini", "url": URL}))
    check_models(settings_with(base={"model": "own", "checkpoint": own}))


def test_tiny_models_of_every_kind_are_allowed(own: str, tmp_path: Path) -> None:
    for sections in ({}, {"reflection": {"checkpoint": own}}, {"base": {"checkpoint": own}}, {"reflection": {"checkpoint": tmp_path / "missing"}}):
        check_models(settings_with(**sections))
        assert tiny_model_warnings(settings_with(**sections)) == []


def test_tiny_parts_beside_an_endpoint_are_warned_about(real: str) -> None:
    base: dict[str, Any] = {"url": URL, "model": "gpt-4o-mini"}
    (rewrites,) = tiny_model_warnings(settings_with(base=base))
    assert "reflection.checkpoint=pico/checkpoints/reflector" in rewrites
    check_models(settings_with(base=base))
    assert tiny_model_warnings(settings_with(base=base | PAPER)) == [rewrites]
    assert tiny_model_warnings(settings_with(base=base | PAPER, strategies=NO_RPO)) == []
    assert tiny_model_warnings(settings_with(base=base | PAPER, reflection={"checkpoint": real} | PAPER)) == []
    assert tiny_model_warnings(settings_with(base={"url": URL})) == []  # the local stack's own base endpoint, in its processes


def test_only_the_tiny_base_model_gets_prompts_without_options(own: str) -> None:
    assert settings_with().base.style is PromptStyle.COMPACT
    assert settings_with(base={"url": URL, "model": "gpt-4o-mini"}).base_form.style is PromptStyle.PAPER
    compact = {"url": URL, "prompt_style": "compact"}
    with pytest.raises(BadSetting, match=r"base\.prompt_style=compact .* names no options, but base\.model=m is another model: leave base\.prompt_style out"):
        check_models(settings_with(base=compact | {"model": "m"}))
    check_models(settings_with(base=compact))
    check_models(settings_with(base={"model": "own", "checkpoint": own, "prompt_style": "compact"}))


def test_commands_and_processes_refuse_at_their_start(real: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def body(settings: Settings, stop: threading.Event | None = None) -> None:
        raise AssertionError("it started")

    monkeypatch.setenv("RETOUCH_REFLECTION", json.dumps({"checkpoint": real} | PAPER))
    assert exit_code_of(body) == USAGE
    assert run_process("part", body) == USAGE
    errors = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in errors] == ["retouch", "part"]
    assert all("base.checkpoint" in line and "reflection.checkpoint" in line for line in errors)
    monkeypatch.setenv("OPENAI_BASE_URL", URL)
    assert exit_code_of(lambda settings: None) == OK


def test_the_stack_warns_when_it_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.local.stack.apply_topology", lambda settings: None)
    settings = settings_with(base={"url": URL, "model": "gpt-4o-mini"}, kafka={"bootstrap_servers": "127.0.0.1:9"}, stack={"dir": tmp_path})
    stack = Stack(settings, only=[])
    with caplog.at_level(logging.WARNING, "infra.process.model_check"):
        stack.launch()
    stack.stop()
    assert [vars(record)["why"] for record in caplog.records if record.name == "infra.process.model_check"] == tiny_model_warnings(settings)
