from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.registry.version_tags import DatasetLineage
from infra.settings import load
from lab.promotion.scripted_inputs import PROMOTION, ScriptedInputs, moments
from schemas.experiments import Arm
from schemas.quality import Metric, Span
from schemas.strategies import Strategy
from scripts.page_schema import PAGE_SCHEMA, page_schema
from tests.support.promoter_harness import PromoterHarness
from tests.support.quality_cells import AT, ScoredAnswer
from tests.support.strategy_cells import comparison_cells
from trainer.promotion.operator_commands import OperatorCommand
from trainer.promotion.promoter import Observations, PromoterState, verdict_of
from trainer.promotion.version_history import VersionHistories
from trainer.promotion.view import page_view, view_of

SETTINGS = load(registry={"model_name": "retouch-reflector"}).model_copy(update={"promotion": PROMOTION})
#: The JSON that both paths returned before the view had a model, for the two states below.
SAMPLE = json.loads((Path(__file__).parents[3] / "samples/views/promotion_view.json").read_text())


def canary_state() -> PromoterState:
    """A canary that is better than the baseline."""
    harness = PromoterHarness()
    harness.register()
    harness.inputs.figures = {"shadow": "better"}
    harness.run_until_idle()
    observations = ScriptedInputs(figures={"canary": "better"}).observe(harness.histories.experiment)
    return PromoterState(harness.histories, observations, verdict_of(harness.histories, observations, PROMOTION, harness.inputs.now))


def full_state() -> PromoterState:
    """Every field holds something: a rollback, a canary, a refusal, lineage, unknown figures and a figure that is not a number."""
    harness = PromoterHarness()
    for _ in range(3):
        harness.register()
    harness.run_until_idle()
    harness.promoter.execute(OperatorCommand("promote", "2", "ada", "now"))
    harness.promoter.execute(OperatorCommand("rollback", "2", "ada", "users complain"))
    harness.inputs.figures = {"shadow": "better"}
    harness.run_until_idle()
    lineage = DatasetLineage("trajectories", "d1", {"trajectories": {0: (0, 812), 1: (3, 790)}})
    facts: dict[str, Any] = {"tags": {"code_version": "3f1c9aa", "seed": "7"}, "metrics": {"candidate.score": 0.8125, "loss": float("nan")}, "dataset": lineage}
    versions = tuple(replace(version, **facts) if version.version == "3" else version for version in harness.histories.versions)
    histories, now = VersionHistories(versions), harness.inputs.now
    inputs = ScriptedInputs(figures={"canary": "better"}, now=now, versions={version.version: version for version in versions}, refused={"2"})
    observations = inputs.observe(histories.experiment)
    metrics = {
        Metric.REWARD: moments(0.8, 0.1),
        Metric.FALLBACK: moments(0.02, 0.1),
        Metric.LATENCY_MS: moments(400.0, 30.0),
        Metric.DRIFT: moments(0.3, 0.1),
    }
    cells = tuple(cell.model_copy(update={"metrics": metrics, "domain": domain}) for cell in observations.cells for domain in (None, "reviews"))
    one_user = observations.windows[0].model_copy(update={"metrics": {Metric.REWARD: moments(0.8, 0.0, users=1)}})
    many_users = observations.windows[0].model_copy(update={"metrics": {Metric.REWARD: moments(0.7, 0.1)}, "version": "2", "arm": Arm.BASELINE})
    observations = replace(observations, cells=cells, windows=(one_user, many_users))
    return PromoterState(histories, observations, verdict_of(histories, observations, PROMOTION, now), now)


def champion_state() -> PromoterState:
    """A champion, and nothing else."""
    return PromoterState(PromoterHarness().histories, at=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC))


@pytest.mark.parametrize(("name", "state"), [("canary", full_state), ("champion_only", champion_state)])
def test_the_json_of_both_views_is_what_it_was_before_they_had_models(name: str, state: Any) -> None:
    view = view_of(state(), SETTINGS)
    assert json.loads(view.model_dump_json()) == SAMPLE[name]["state"]
    assert json.loads(page_view(view).model_dump_json()) == SAMPLE[name]["page"]


def test_the_pages_schema_file_is_that_of_its_model() -> None:
    """After a change of the model: write the schema anew, and let `tests/integration/test_promotion_page.py` check the page against it."""
    assert PAGE_SCHEMA.read_text() == page_schema(), "run: python -m scripts.page_schema"


def test_the_view_shows_the_experiment_its_arms_and_every_history() -> None:
    view = view_of(canary_state(), SETTINGS)
    assert (view.champion, view.challenger, view.approval) == ("1", "2", "automatic")
    experiment = view.experiment
    assert experiment and (experiment.stage, experiment.share, experiment.verdict.outcome) == ("canary", PROMOTION.canary_share, "better")
    assert experiment.arms[Arm.CANARY].model_dump() == {"version": "2", "answers": 600, "scored": 600, "users": 300}
    assert set(experiment.arms) == {"baseline", "canary"}
    assert [version.state for version in view.versions] == ["champion", "canary"]
    assert [step.after for step in view.versions[1].transitions] == ["gated", "shadow", "canary"]
    assert view.transitions[0].version == "2" and view.transitions[0].after == "canary"
    assert {rail.metric for rail in view.guardrails} >= {"fallback", "latency_ms"}


def test_intervals_are_over_users_and_unknown_for_a_single_user() -> None:
    state = canary_state()
    row = next(row for row in view_of(state, SETTINGS).quality if row.arm == "canary")
    half = 1.96 * moments(0.8, 0.1).variance ** 0.5
    assert row.domain is None and (row.mean, row.low, row.high) == pytest.approx((0.8, 0.8 - half, 0.8 + half))
    one_user = {"metrics": {Metric.REWARD: moments(0.8, 0.0, users=1)}, "span": Span.WINDOW, "arm": Arm.CHAMPION}
    window = state.observations.cells[0].model_copy(update=one_user)
    windows = view_of(replace(state, observations=replace(state.observations, cells=(), windows=(window,))), SETTINGS).windows
    assert [(window.arm, window.scored, window.low, window.high) for window in windows] == [("champion", 2, None, None)]


def test_without_a_challenger_and_figures_the_view_is_complete() -> None:
    view = view_of(champion_state(), SETTINGS)
    assert (view.experiment, view.challenger, view.quality, view.guardrails, view.workers) == (None, None, (), (), ())


def test_the_page_has_the_newest_comparison_of_strategies() -> None:
    answers = [ScoredAnswer(user, {Metric.REWARD: 0.5}) for user in range(3)]
    both = {Strategy.RAG: answers, Strategy.RPO: answers}
    cells = [cell for name, hours in (("autumn", 1), ("winter", 2)) for cell in comparison_cells(both, name, ended_at=AT + timedelta(hours=hours))]
    state = replace(champion_state(), observations=Observations(comparisons=cells))
    view = view_of(state, SETTINGS)
    assert [comparison.experiment for comparison in view.comparisons] == ["winter", "autumn"]
    assert {row.domain for row in view.comparisons[0].strategies} == {None, "movie_tag"}
    (shown,) = page_view(view).comparisons
    assert shown.experiment == "winter" and [(row.strategy, row.domain) for row in shown.strategies] == [("rag", None), ("rpo", None)]
    assert [(row.against, row.strategy, row.domain) for row in shown.differences] == [("rag", "rpo", None)]
    assert view.quality == () and view.experiment is None
