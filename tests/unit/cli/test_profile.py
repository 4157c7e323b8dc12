"""What `retouch profile` shows of a retrieval."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cli import profile
from cli.app import app
from schemas.features import AnswerPropensity, Factor, Influence, PolarityShares, Propensities, UserFactors
from schemas.ids import derive
from schemas.lookups import Retrieval
from schemas.profiles import Summary
from schemas.strategies import Strategy
from tests.support.worker_messages import NOON, make_query, make_retrieval

ANSWERS = (AnswerPropensity(answer="comedy", items=2, propensity=2 / 3), AnswerPropensity(answer="action", items=1, propensity=1 / 3))
ROBOT = Factor(factor_id=derive("factor", 1), label="robot", statistic=Propensities(items=3, answers=ANSWERS))
SERVICE = Factor(
    factor_id=derive("factor", 2),
    label="service",
    statistic=Influence(coverage=2, influence=1, polarity=PolarityShares(positive=0, neutral=0, negative=1)),
)
FACTORS = UserFactors.of([ROBOT, SERVICE], 5, NOON)
SUMMARY = Summary(text="most popular tag: comedy", count=5, until=NOON)


def found(factors: UserFactors | None = FACTORS, summary: Summary | None = SUMMARY) -> Retrieval:
    return make_retrieval(Strategy.RPM, query=make_query()).model_copy(update={"factors": factors, "summary": summary})


def shown(retrieval: Retrieval, capsys: pytest.CaptureFixture[str]) -> str:
    profile._show(retrieval)
    return capsys.readouterr().out


def test_factors_are_shown_with_their_statistics_and_the_number_of_items(capsys: pytest.CaptureFixture[str]) -> None:
    output = shown(found(), capsys)
    assert "Summary of 5 items until 2026-11-20 12:00: most popular tag: comedy" in output
    assert f"2 factors of 5 items until 2026-11-20 12:00, statistics {FACTORS.version}" in output
    assert "3 items: comedy 67 %, action 33 %" in output and "2 items, 1 influence: 100 % negative" in output


def test_a_summary_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output = shown(found(summary=SUMMARY.model_copy(update={"text": "films\x1b[2J\nand books"})), capsys)
    assert "films\\x1b[2J\nand books" in output


def test_a_user_without_a_profile_is_shown_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    output = shown(found(None, None), capsys)
    assert "No summary." in output and "No factors." in output and "rpm" in output


def test_the_json_has_the_same() -> None:
    data = json.loads(json.dumps(profile.as_data(found())))
    assert (data["user"], data["domain"], data["items"], data["statistics_version"]) == ("u", "movie_tag", 5, FACTORS.version)
    assert [factor["label"] for factor in data["factors"]] == ["robot", "service"]
    assert data["factors"][0]["statistic"]["answers"][0] == {"answer": "comedy", "items": 2, "propensity": 2 / 3}
    assert data["summary"]["text"] == SUMMARY.text
    assert profile.as_data(found(None, None))["factors"] == []


def test_an_impossible_user_is_an_error_of_usage() -> None:
    result = CliRunner().invoke(app, ["profile", "--user", "a/b"])
    assert result.exit_code == 2 and "user" in result.output
