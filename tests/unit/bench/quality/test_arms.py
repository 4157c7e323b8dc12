"""The names of arms."""

from __future__ import annotations

import pytest

from bench.quality.arms import ALL, Arm, NeededVersion, Variant, grouped, parse_arms
from infra.errors import BadSetting
from infra.process.environment import environment
from infra.settings import Settings, load
from infra.settings.stream import Retriever
from schemas.strategies import Strategy


def test_all_are_all_strategies_once_beside_other_names() -> None:
    arms = parse_arms("all, rag ,rag@random")
    assert arms[: len(ALL)] == ALL
    assert [arm.name for arm in arms[len(ALL) :]] == ["rag@random"]


def test_a_name_says_everything_about_its_arm() -> None:
    (arm,) = parse_arms("rpo#2@bm25:sft")
    assert arm == Arm(Strategy.RPO, 2, Retriever.BM25, Variant.SFT)
    assert parse_arms(arm.name) == (arm,)


@pytest.mark.parametrize("name", ["raq", "rag@nearest", "rpo:dpo", "rag:sft", "rpo:hydra", "rpo:full", "rpo:query", "rag#0", "rag#", ""])
def test_a_wrong_name_is_refused_with_what_would_be_right(name: str) -> None:
    with pytest.raises(BadSetting, match="--strategies"):
        parse_arms(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RAG", "no such strategy"),
        ("@bm25", "no such strategy"),
        ("rpo@", "no such retriever"),
        ("rpo@BM25", "no such retriever"),
        ("rpo:", "no such variant"),
        ("rag#0", "K is not a number from 1 to 99"),
        ("rag#100@bm25", "K is not a number from 1 to 99"),
        ("rag#１", "K is not a number from 1 to 99"),
        ("rag#", "K is not a number from 1 to 99"),
        ("rpo:rl@bm25", "in this order"),
        ("rag@bm25#2", "in this order"),
        ("rag#2#3", "in this order"),
    ],
)
def test_the_part_of_a_name_that_is_wrong_is_said(name: str, message: str) -> None:
    with pytest.raises(BadSetting, match=f"--strategies: '{name}': .*{message}"):
        parse_arms(name)


@pytest.mark.parametrize(
    ("name", "part"), [("zero_shot#2", "number of items"), ("hydra#2", "number of items"), ("icl#2@bm25", "retriever"), ("zero_shot_cot@recent", "retriever")]
)
def test_an_arm_that_would_equal_another_one_is_refused(name: str, part: str) -> None:
    with pytest.raises(BadSetting, match=f"the {part} changes nothing"):
        parse_arms(name)


def test_an_arms_settings_change_the_items_and_the_retriever_of_every_process() -> None:
    (arm,) = parse_arms("rag#8@random")
    settings = arm.settings(Settings())
    assert (settings.strategies.k, settings.reflection.k, settings.retrieval.k_max, settings.retrieval.retriever) == (8, 8, 8, Retriever.RANDOM)
    assert Arm(Strategy.RAG).settings(settings) == settings


def test_an_arms_retriever_replaces_that_of_the_strategy_in_a_child_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    (arm,) = parse_arms("hydra@recent")
    for name, value in environment(arm.settings(Settings())).items():
        monkeypatch.setenv(name, value)
    assert load().retrieval.by_strategy[Strategy.HYDRA] is Retriever.RECENT


def test_an_arm_without_a_number_shows_the_items_of_its_own_setting() -> None:
    settings = Settings().changed(strategies={"k": 3, "pag_k": 0}, reflection={"k": 2})
    shown = {"rag": 3, "rpo": 2, "pag": 0, "rag#5": 5, "rpo#6": 6, "pag#2": 2}
    assert {arm.name: arm.items(settings) for arm in parse_arms(",".join(shown))} == shown
    assert parse_arms("pag")[0].items(Settings()) == Settings().strategies.k


def test_the_arms_with_other_numbers_of_items_change_their_own_number() -> None:
    for arm in parse_arms("items"):
        settings = arm.settings(Settings())
        assert arm.k == arm.items(settings) == settings.strategies.k == settings.reflection.k <= settings.retrieval.k_max
    assert not {arm.name for arm in parse_arms("items")} & {arm.name for arm in parse_arms("all,ablations")}


def test_arms_share_processes_unless_items_retriever_or_version_differ() -> None:
    groups = grouped(parse_arms("zero_shot,rag,rpo,rpo:sft,rag@random,rpo@random"))
    assert [[arm.name for arm in group] for group in groups.values()] == [["zero_shot", "rag", "rpo"], ["rpo:sft"], ["rag@random", "rpo@random"]]


def test_the_trained_version_serves_in_every_group_whatever_its_first_arm() -> None:
    groups = grouped(parse_arms("zero_shot,rpo,rag@random,rpo@random,rpo:rl,rpm,rpm:query"))
    assert [group[0].reflector for group in groups.values()] == [NeededVersion.RPO, NeededVersion.RPO, NeededVersion.RL, NeededVersion.RPO]
    assert [arm.name for arm in groups[parse_arms("rpm:query")[0].group]] == ["rpm:query"]
    assert {arm.name: arm.version for arm in parse_arms("zero_shot,hydra,rpo,rpo:sft,rpo:given")} == {
        "zero_shot": None,
        "hydra": NeededVersion.HYDRA,
        "rpo": NeededVersion.RPO,
        "rpo:sft": NeededVersion.SFT,
        "rpo:given": NeededVersion.GIVEN,
    }
