"""`retouch strategies` against a promoter in memory: figures, messages and exit codes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from infra.settings import load
from schemas.quality import Metric, Quality
from schemas.strategies import Strategy
from tests.support.memory_promoter import MemoryPromoter, example_view
from tests.support.quality_cells import ScoredAnswer
from tests.support.strategy_cells import COMPARISON, comparison_cells
from trainer.promotion.strategy_comparison import comparison_views
from trainer.promotion.web import serve

RAG, RPO, ICL = Strategy.RAG, Strategy.RPO, Strategy.ICL


def strategies(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["strategies", *arguments])
    return result.exit_code, result.stdout, result.stderr


def answers(share: float, domain: str, users: int = 40) -> list[ScoredAnswer]:
    """Ten answers of each user, of which this share is right, for one half of the users one more and for the other one less."""
    return [
        ScoredAnswer(user, {Metric.REWARD: float(number < 10 * share + (-1) ** user), Metric.FALLBACK: 0.0, Metric.LATENCY_MS: 40.0}, domain)
        for user in range(users)
        for number in range(10)
    ]


def shown(cells: list[Quality], **traffic: int) -> dict[str, Any]:
    """The view of a promoter that read these cells."""
    comparisons = [json.loads(comparison.model_dump_json()) for comparison in comparison_views(cells, load())]
    return example_view() | {
        "comparisons": comparisons,
        "strategies": [{"strategy": name, "answers": count, "scored": count // 2} for name, count in traffic.items()],
    }


@pytest.fixture
def promoter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryPromoter]:
    """Films are better by RPO, books by neither."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETOUCH_STRATEGIES__EXPERIMENT", COMPARISON)
    monkeypatch.setenv("RETOUCH_STRATEGIES__WEIGHTS", '{"rpo": 3, "rag": 1}')
    monkeypatch.setenv("RETOUCH_PROMOTION__OPERATOR_TOKEN", "an operator's token")
    by_strategy = {RAG: [*answers(0.5, "books"), *answers(0.2, "films")], RPO: [*answers(0.5, "books", users=120), *answers(0.9, "films", users=120)]}
    promoter = MemoryPromoter(shown(comparison_cells(by_strategy), rpo=4_210, rag=1_400, icl=3))
    with serve(load(), promoter, threading.Event()) as server:
        monkeypatch.setenv("RETOUCH_PROMOTION__URL", server.url)
        yield promoter


def test_two_strategies_are_compared_over_all_domains_and_in_each(promoter: MemoryPromoter) -> None:
    code, output, _ = strategies("compare", "rag", "rpo")
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert code == 0 and lines[0].startswith(f"experiment {COMPARISON}, answers and feedback from ")
    assert any(line.startswith("all rag 0.350 [") and line.endswith("800 800 40 0.0% 40 ms") for line in lines)
    assert any(line.startswith("films rpo - rag +0.700 [+0.6") and line.endswith("better") for line in lines)
    assert any(line.startswith("books rpo - rag +0.000 [-0.") and line.endswith("not decided yet") for line in lines)
    assert lines[-1].startswith("rpo is better than rag: +0.350 [+0.")


def test_the_other_order_gives_the_opposite_difference(promoter: MemoryPromoter) -> None:
    forward, backward = (json.loads(strategies("compare", *pair, "--json")[1]) for pair in (("rag", "rpo"), ("rpo", "rag")))
    assert [row["strategy"] for row in backward["strategies"][:3]] == ["rpo"] * 3 and len(forward["differences"]) == 3
    for one, other in zip(forward["differences"], backward["differences"], strict=True):
        assert (one["strategy"], one["difference"], one["low"], one["high"]) == ("rpo", -other["difference"], -other["high"], -other["low"])
    assert {row["domain"]: row["verdict"] for row in backward["differences"]} == {None: "worse", "books": "undecided", "films": "worse"}
    assert strategies("compare", "rpo", "rag")[1].splitlines()[-1].startswith("rag is worse than rpo: -0.350")


def test_one_domain_can_be_compared_alone(promoter: MemoryPromoter) -> None:
    _, output, _ = strategies("compare", "rag", "rpo", "--domain", "books", "--json")
    assert {row["domain"] for part in ("strategies", "differences") for row in json.loads(output)[part]} == {"books"}
    code, output, _ = strategies("compare", "rag", "rpo", "--domain", "books")
    assert code == 0 and output.splitlines()[-1] == "rpo against rag in books: not decided yet"
    code, _, error = strategies("compare", "rag", "rpo", "--domain", "songs")
    assert code == 1 and "no figures of domain songs; it has those of books, films" in error


def test_too_few_answers_are_said_to_be_too_few(promoter: MemoryPromoter) -> None:
    promoter.state = shown(comparison_cells({RAG: answers(0.5, "films", users=2), RPO: answers(0.5, "films", users=2)}))
    code, output, _ = strategies("compare", "rag", "rpo")
    assert code == 0 and "not decided yet, too few to decide: 20 of 100 scored answers, 2 of 30 users in the smaller group" in output.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "view", "message"),
    [
        (("rag", "rpo"), lambda: shown([]), f"experiment {COMPARISON} has no answers. Give both strategies a share of users with strategies.weights"),
        (("rag", "rpo"), lambda: shown([], rag=40, rpo=2_000, icl=9), "in the last hour (40 of rag, 2,000 of rpo), but none by routing: users who get"),
        (("icl", "rpo"), lambda: shown(two_strategies()), f"experiment {COMPARISON} has no answers of icl, only of rag, rpo. Give both"),
        (
            ("rag", "rpo"),
            lambda: shown(two_strategies("winter")),
            f"experiment {COMPARISON} has no answers; other experiments have some, see --experiment: winter",
        ),
        (("rag", "rpo", "--experiment", "spring"), lambda: shown(two_strategies()), "experiment spring has no answers; other experiments have some"),
    ],
)
def test_without_answers_to_compare_the_reason_is_said(promoter: MemoryPromoter, arguments: tuple[str, ...], view: Any, message: str) -> None:
    promoter.state = view()
    code, output, error = strategies("compare", *arguments)
    assert (code, output) == (1, "") and message in error


def two_strategies(name: str = COMPARISON) -> list[Quality]:
    return comparison_cells({RAG: answers(0.5, "films"), RPO: answers(0.5, "films")}, name)


def test_another_experiment_can_be_named(promoter: MemoryPromoter) -> None:
    promoter.state = shown([*two_strategies("winter"), *two_strategies()])
    assert json.loads(strategies("compare", "rag", "rpo", "--experiment", "winter", "--json")[1])["experiment"] == "winter"


def test_an_unknown_strategy_and_a_comparison_with_itself_are_usage_errors(promoter: MemoryPromoter) -> None:
    assert strategies("compare", "rag", "raq")[0] == 2
    code, _, error = strategies("compare", "rag", "rag")
    assert code == 2 and "rag is compared with itself" in error


def test_without_a_promoter_there_are_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = strategies("compare", "rag", "rpo")
    assert code == 1 and "no promoter runs" in error
    code, output, _ = strategies("list")
    assert code == 0 and output.splitlines()[-1] == "users are routed as experiment default; answers are unknown, because no promoter runs"
    assert json.loads(strategies("list", "--json")[1])["strategies"] == [{"strategy": "rpo", "share": 1.0, "answers": None, "scored": None}]


def test_a_strategy_without_answers_has_none(promoter: MemoryPromoter) -> None:
    promoter.state = shown([], rpo=20)
    assert any(" ".join(line.split()) == "rag 25.0% 0 0" for line in strategies("list")[1].splitlines())
    assert {"strategy": "rag", "share": 0.25, "answers": 0, "scored": 0} in json.loads(strategies("list", "--json")[1])["strategies"]


def test_the_list_shows_routing_and_answers(promoter: MemoryPromoter) -> None:
    code, output, _ = strategies("list")
    rows = {line.split()[0]: " ".join(line.split()) for line in output.splitlines()}
    assert code == 0 and rows["rpo"] == "rpo 75.0% 4,210 2,105" and rows["rag"] == "rag 25.0% 1,400 700" and rows["icl"] == "icl if a query names it 3 1"
    assert output.splitlines()[-1] == f"users are routed as experiment {COMPARISON}; experiments with answers: {COMPARISON}"
    listed = json.loads(strategies("list", "--json")[1])
    assert listed["experiment"] == COMPARISON == listed["comparisons"][0]
    assert listed["strategies"][1] == {"strategy": "rag", "share": 0.25, "answers": 1400, "scored": 700}
