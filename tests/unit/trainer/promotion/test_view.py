from __future__ import annotations

import json

import pytest

from infra.settings import load
from lab.promotion.script import PROMOTION, ScriptedInputs, moments
from schemas.experiments import Arm
from schemas.quality import Metric, Span
from tests.unit.trainer.promotion.world import PromotionWorld
from trainer.promotion.promoter import PromoterState, verdict_of
from trainer.promotion.view import view_of

SETTINGS = load().model_copy(update={"promotion": PROMOTION})


def trying() -> PromoterState:
    """A canary under way whose users are better off."""
    world = PromotionWorld()
    world.register()
    world.inputs.told = {"shadow": "better"}
    world.run_until_idle()
    script = ScriptedInputs(told={"canary": "better"})
    seen = script.observe(world.histories.experiment)
    return PromoterState(world.histories, seen, verdict_of(world.histories, seen, PROMOTION, world.inputs.now))


def test_the_view_shows_the_experiment_its_arms_and_every_versions_log_as_plain_json() -> None:
    sight = trying()
    view = json.loads(json.dumps(view_of(sight, SETTINGS), allow_nan=False))
    assert (view["champion"], view["challenger"], view["approval"]) == ("1", "2", "automatic")
    experiment = view["experiment"]
    assert (experiment["stage"], experiment["share"], experiment["verdict"]["outcome"]) == ("canary", PROMOTION.canary_share, "better")
    assert experiment["arms"]["canary"] == {"version": "2", "answers": 600, "scored": 600, "users": 300} and set(experiment["arms"]) == {"baseline", "canary"}
    assert [version["state"] for version in view["versions"]] == ["champion", "canary"]
    assert [step["after"] for step in view["versions"][1]["transitions"]] == ["gated", "shadow", "canary"]
    assert view["transitions"][0]["version"] == "2" and view["transitions"][0]["after"] == "canary"
    assert {rail["metric"] for rail in view["guardrails"]} >= {"fallback", "latency_ms"}


def test_intervals_are_over_users_and_unknown_where_one_user_answers_alone() -> None:
    sight = trying()
    row = next(row for row in view_of(sight, SETTINGS)["quality"] if row["arm"] == "canary")
    half = 1.96 * moments(0.8, 0.1).variance ** 0.5
    assert row["domain"] is None and (row["mean"], row["low"], row["high"]) == pytest.approx((0.8, 0.8 - half, 0.8 + half))
    lone = sight.seen.cells[0].model_copy(update={"metrics": {Metric.REWARD: moments(0.8, 0.0, users=1)}, "span": Span.WINDOW, "arm": Arm.CHAMPION})
    seen = ScriptedInputs().observe(None)
    windows = view_of(PromoterState(sight.histories, type(seen)(True, None, (), (lone,))), SETTINGS)["windows"]
    assert [(window["arm"], window["scored"], window["low"], window["high"]) for window in windows] == [("champion", 2, None, None)]


def test_where_nothing_is_tried_and_nothing_is_known_the_view_is_still_whole() -> None:
    view = view_of(PromoterState(PromotionWorld().histories), SETTINGS)
    assert (view["experiment"], view["challenger"], view["quality"], view["guardrails"], view["workers"]) == (None, None, [], [], [])
