"""The promoter over a registry in memory: every edge by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from infra.errors import CannotContinue, RetryLater
from lab.promotion.invariants import shape
from lab.promotion.script import PROMOTION, Told
from schemas.gate import GateResult
from schemas.model_events import Alias
from schemas.promotion import VersionState
from tests.unit.trainer.promotion.memory import MemoryRegistry, ProcessKilled
from tests.unit.trainer.promotion.world import PASSED, PROMPT, PromotionWorld
from trainer.promotion import operator_commands, state_machine
from trainer.promotion.feed import Observations
from trainer.promotion.operator_api import CommandRefused
from trainer.promotion.promoter import Promoter, refusals, verdict_of


@pytest.fixture
def world() -> PromotionWorld:
    return PromotionWorld()


def test_a_good_version_goes_from_gate_to_champion_and_the_old_one_retires(world: PromotionWorld) -> None:
    world.register()
    world.run_until_idle()
    assert world.state("2") is VersionState.SHADOW
    world.inputs.told = {"shadow": "better"}
    world.run_until_idle()
    assert world.state("2") is VersionState.CANARY
    world.inputs.told = {"canary": "better"}
    world.run_until_idle()
    world.check_idle()
    second, first = world.registry.get("2"), world.registry.get("1")
    assert [step.after for step in second.transitions] == [VersionState.GATED, VersionState.SHADOW, VersionState.CANARY, VersionState.CHAMPION]
    assert second.transitions[-1].replaces == "1" and first.state is VersionState.RETIRED and second.canary_prompts == (PROMPT,)
    shadow, canary = second.transitions[1:3]
    assert shadow.experiment and canary.experiment and shadow.experiment != canary.experiment
    assert (shadow.share, canary.share) == (PROMOTION.shadow_share, PROMOTION.canary_share)
    assert canary.evidence["gain"] and second.transitions[-1].evidence["reward"]


def test_stages_that_the_settings_leave_out_are_passed_over() -> None:
    world = PromotionWorld(PROMOTION.model_copy(update={"shadow_answers": 0, "canary_answers": 0}))
    world.register()
    world.run_until_idle()
    assert [step.after for step in world.registry.get("2").transitions] == [VersionState.GATED, VersionState.CHAMPION]


@pytest.mark.parametrize(("outcome", "state"), [("rejected", VersionState.REJECTED), ("inconclusive", VersionState.INCONCLUSIVE)])
def test_the_gate_turns_down_what_is_worse_and_what_is_not_better(world: PromotionWorld, outcome: Any, state: VersionState) -> None:
    world.register(GateResult(outcome=outcome, reason="as the gate says"))
    world.run_until_idle()
    assert world.state("2") is state and world.registry.get("2").transitions[-1].reason == "as the gate says"


@pytest.mark.parametrize("stage", ["shadow", "canary"])
@pytest.mark.parametrize(("told", "state"), [("harmful", VersionState.REJECTED), ("equal", VersionState.INCONCLUSIVE)])
def test_a_version_that_harms_its_users_is_rejected_and_one_that_nobody_can_tell_is_inconclusive(stage: str, told: Told, state: VersionState) -> None:
    world = PromotionWorld(PROMOTION.model_copy(update={"shadow_answers": 100_000} if stage == "shadow" else {"canary_answers": 100_000}))
    world.register()
    world.inputs.told = {"shadow": "better"} if stage == "canary" else {}
    world.run_until_idle()
    world.inputs.told = {stage: told}
    world.inputs.now += timedelta(days=30)
    world.run_until_idle()
    world.check_idle()
    assert world.state("2") is state and world.registry.aliases.get(Alias.CHALLENGER) is None


@pytest.mark.parametrize("stage", ["shadow", "canary"])
def test_a_version_whose_answers_nobody_counts_is_tried_anew_three_times_and_then_inconclusive(world: PromotionWorld, stage: str) -> None:
    world.register()
    experiments = set()
    for _ in range(4):
        world.inputs.told = {"shadow": "better"} if stage == "canary" else {}
        world.run_until_idle()
        assert world.state("2") is VersionState(stage)
        experiments.add(world.histories.experiment)
        world.inputs.told = {}
        world.inputs.now += timedelta(days=30)
        assert world.reconcile()
    back = next(step for step in world.registry.get("2").transitions if step.after is VersionState.REGISTERED)
    assert len(experiments) == 4 and back.reason == f"no answer of its experiment was counted for {back.evidence['uncounted_s'] / 3600:.1f} hours"
    world.run_until_idle()
    world.check_idle()
    assert world.state("2") is VersionState.INCONCLUSIVE and "anew 3 times" in world.registry.get("2").transitions[-1].reason


@pytest.mark.parametrize(("told", "state"), [("equal", VersionState.SHADOW), ("harmful", VersionState.REJECTED), ("better", VersionState.CHAMPION)])
def test_a_canary_whose_figures_stand_still_is_taken_back_unless_they_decide(told: Told, state: VersionState) -> None:
    world = PromotionWorld(PROMOTION.model_copy(update={"canary_answers": 100_000}))
    world.register()
    world.inputs.told = {"shadow": "better"}
    world.run_until_idle()
    world.inputs.told, world.inputs.is_asked = {"canary": told}, False
    world.inputs.now += (quiet := timedelta(hours=35))
    world.inputs.uncounted = quiet
    if told == "equal":
        world.run_until_idle()
        assert world.state("2") is VersionState.CANARY
    world.inputs.now += timedelta(hours=2)
    world.inputs.uncounted += timedelta(hours=2)
    world.run_until_idle()
    world.check_idle()
    assert world.state("2") is state


def test_a_version_that_waits_for_a_person_is_taken_back_once_nobody_counts_what_it_does() -> None:
    world = PromotionWorld(PROMOTION.model_copy(update={"approval": "person"}))
    world.register()
    world.inputs.told = {"shadow": "better", "canary": "better"}
    world.run_until_idle()
    world.inputs.told = {"canary": "better"}
    world.inputs.uncounted = timedelta(hours=35)
    world.inputs.now += timedelta(days=3)
    world.run_until_idle()
    assert world.state("2") is VersionState.APPROVAL
    world.inputs.uncounted += timedelta(hours=2)
    world.run_until_idle()
    world.check_idle()
    assert [step.after for step in world.registry.get("2").transitions[-4:]] == [
        VersionState.APPROVAL,
        VersionState.REGISTERED,
        VersionState.GATED,
        VersionState.SHADOW,
    ]


def test_while_nobody_asks_no_time_is_up_and_nothing_is_written(world: PromotionWorld) -> None:
    world.register()
    world.run_until_idle()
    world.inputs.is_asked = False
    for _ in range(3):
        world.inputs.now += timedelta(days=30)
        assert not world.reconcile() and world.state("2") is VersionState.SHADOW
    world.inputs.is_asked = True
    before = world.histories.experiment
    world.run_until_idle()
    assert world.state("2") is VersionState.SHADOW and world.histories.experiment != before


def test_with_approval_by_a_person_a_better_version_waits_serves_on_and_is_still_watched() -> None:
    world = PromotionWorld(PROMOTION.model_copy(update={"approval": "person"}))
    world.register()
    world.inputs.told = {"shadow": "better", "canary": "better"}
    world.run_until_idle()
    canary, approval = world.registry.get("2").transitions[-2:]
    assert world.state("2") is VersionState.APPROVAL and (approval.experiment, approval.share) == (canary.experiment, canary.share)
    world.inputs.now += timedelta(days=30)
    world.run_until_idle()
    assert world.state("2") is VersionState.APPROVAL
    world.inputs.told = {"canary": "harmful"}
    world.run_until_idle()
    assert world.state("2") is VersionState.REJECTED


def test_a_version_that_waits_for_approval_when_it_becomes_automatic_is_crowned_by_figures_of_now_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = PromotionWorld(PROMOTION.model_copy(update={"approval": "person"}))
    world.register()
    world.inputs.told = {"shadow": "better", "canary": "better"}
    world.run_until_idle()
    world.promotion = PROMOTION
    world.restart()
    with monkeypatch.context() as patch:
        patch.setattr(world.inputs, "observe", lambda experiment: Observations(False, None))
        world.run_until_idle()
        assert world.state("2") is VersionState.APPROVAL
    world.inputs.told = {"canary": "equal"}
    world.run_until_idle()
    assert world.state("2") is VersionState.APPROVAL
    world.inputs.told = {"canary": "better"}
    world.run_until_idle()
    assert world.state("2") is VersionState.CHAMPION and world.registry.get("2").transitions[-1].evidence["reward"]


@pytest.mark.parametrize(("canary_answers", "state"), [(0, VersionState.CHAMPION), (400, VersionState.APPROVAL)])
def test_a_version_that_waits_without_a_canary_is_crowned_where_the_settings_want_none(canary_answers: int, state: VersionState) -> None:
    world = PromotionWorld(PROMOTION.model_copy(update={"approval": "person", "canary_answers": 0}))
    world.register()
    world.inputs.told = {"shadow": "better"}
    world.run_until_idle()
    assert world.state("2") is VersionState.APPROVAL
    world.promotion = PROMOTION.model_copy(update={"canary_answers": canary_answers})
    world.restart()
    world.run_until_idle()
    assert world.state("2") is state


def test_one_version_is_tried_at_a_time_the_oldest_first(world: PromotionWorld) -> None:
    for _ in range(3):
        world.register()
    world.run_until_idle()
    assert [world.state(name) for name in "234"] == [VersionState.SHADOW, VersionState.GATED, VersionState.GATED]
    world.inputs.told = {"shadow": "harmful"}
    world.reconcile()
    world.inputs.told = {}
    world.run_until_idle()
    assert [world.state(name) for name in "234"] == [VersionState.REJECTED, VersionState.SHADOW, VersionState.GATED]


def test_a_comparison_with_a_champion_that_gave_way_is_void_and_the_version_is_gated_anew(world: PromotionWorld) -> None:
    for _ in range(2):
        world.register()
    world.run_until_idle()
    world.promoter.execute(partial(operator_commands.promote, version="3", operator="ada", reason="now"))
    assert [world.state(name) for name in "123"] == [VersionState.RETIRED, VersionState.REGISTERED, VersionState.CHAMPION]
    assert world.registry.aliases.get(Alias.CHALLENGER) is None
    world.run_until_idle()
    assert [step.after for step in world.registry.get("2").transitions[-2:]] == [VersionState.GATED, VersionState.SHADOW]


def test_a_version_whose_log_cannot_be_read_waits_alone_unless_an_alias_names_it(world: PromotionWorld) -> None:
    for _ in range(2):
        world.register()
    world.registry.spoil("2")
    world.run_until_idle()
    assert world.registry.get("3").state is VersionState.SHADOW
    world.promoter.execute(partial(operator_commands.promote, version="3", operator="ada", reason="now"))
    assert world.registry.aliases[Alias.CHAMPION] == "3"
    world.registry.mend("2")
    world.run_until_idle()
    assert world.state("2") is VersionState.SHADOW
    for version in "23":  # challenger, champion
        world.registry.spoil(version)
        with pytest.raises(RetryLater, match=f"version {version}: its tag promotion.0001 is no transition"):
            world.reconcile()
        world.registry.mend(version)


def test_nobody_stays_champion_because_the_log_of_the_next_one_cannot_be_read(world: PromotionWorld) -> None:
    world.register()
    world.run_until_idle()
    world.registry.kill_at = 1  # right after the handover, before any alias
    with pytest.raises(ProcessKilled):
        world.promoter.execute(partial(operator_commands.promote, version="2", operator="ada", reason="now"))
    world.registry.kill_at = None
    world.restart()
    world.registry.spoil("2")
    with pytest.raises(RetryLater):
        world.promoter.reconcile()
    world.registry.mend("2")
    world.run_until_idle()
    world.check_idle()
    assert world.registry.aliases[Alias.CHAMPION] == "2"


def test_a_champion_that_a_worker_refuses_gives_way_to_the_one_before(world: PromotionWorld) -> None:
    world.register()
    world.run_until_idle()
    world.promoter.execute(partial(operator_commands.promote, version="2", operator="ada", reason="now"))
    world.inputs.refused = {"2"}
    world.run_until_idle()
    world.check_idle()
    assert [world.state(name) for name in "12"] == [VersionState.CHAMPION, VersionState.REJECTED]
    assert "model.safetensors" in world.registry.get("1").transitions[-1].reason


def test_a_refused_first_champion_serves_on_where_others_do_and_so_does_a_refused_one_where_the_settings_say_so(world: PromotionWorld) -> None:
    world.run_until_idle()
    world.inputs.refused = {"1"}
    world.run_until_idle()
    assert world.state("1") is VersionState.CHAMPION
    other = PromotionWorld(PROMOTION.model_copy(update={"rollback_on_refusal": False}))
    other.register()
    other.run_until_idle()
    other.promoter.execute(partial(operator_commands.promote, version="2", operator="ada", reason="now"))
    other.inputs.refused = {"2"}
    other.run_until_idle()
    assert other.state("2") is VersionState.CHAMPION


def test_a_challenger_that_a_worker_refuses_is_rejected(world: PromotionWorld) -> None:
    world.register()
    world.run_until_idle()
    world.inputs.refused = {"2"}
    world.run_until_idle()
    assert world.state("2") is VersionState.REJECTED


def test_rolling_back_goes_from_champion_to_champion_and_no_further_than_the_first(world: PromotionWorld) -> None:
    for name in "23":
        world.register()
        world.run_until_idle()
        world.promoter.execute(partial(operator_commands.promote, version=name, operator="ada", reason="now"))
    back = partial(operator_commands.rollback, to=None, operator="ada", reason="users complain")
    for champion, expected in ("32", "21"):
        world.promoter.execute(partial(back, champion=champion))
        assert world.registry.aliases.get(Alias.CHAMPION) == expected
    with pytest.raises(CommandRefused, match="no former champion"):
        world.promoter.execute(partial(back, champion="1"))
    assert [world.state(name) for name in "123"] == [VersionState.CHAMPION, VersionState.REJECTED, VersionState.REJECTED]
    assert world.registry.get("3").transitions[-1].actor == "ada"


def test_a_rollback_gives_up_the_champion_that_was_meant_and_no_other(world: PromotionWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "23":
        world.register()
        world.run_until_idle()
        world.promoter.execute(partial(operator_commands.promote, version=name, operator="ada", reason="now"))
    back = partial(operator_commands.rollback, to=None, champion="3", operator="ada", reason="users complain")

    def away(*_: object) -> None:
        raise RetryLater("the registry does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.registry, "point", away)  # the log is written, and the operator does not know
        with pytest.raises(RetryLater):
            world.promoter.execute(back)
    with pytest.raises(CommandRefused, match="version 3 was to be given up, but version 2 is champion now"):
        world.promoter.execute(back)
    world.register()
    world.inputs.told = {"shadow": "better", "canary": "better"}
    world.run_until_idle()
    with pytest.raises(CommandRefused, match="version 4 is champion now"):
        world.promoter.execute(partial(back, champion="2"))
    assert [world.state(name) for name in "1234"] == [VersionState.RETIRED, VersionState.RETIRED, VersionState.REJECTED, VersionState.CHAMPION]


def test_a_former_champion_may_be_promoted_again_or_be_the_aim_of_a_rollback(world: PromotionWorld) -> None:
    for name in "23":
        world.register()
        world.run_until_idle()
        world.promoter.execute(partial(operator_commands.promote, version=name, operator="ada", reason="now"))
    world.promoter.execute(partial(operator_commands.rollback, to="1", champion="3", operator="ada", reason="both are bad"))
    assert [world.state(name) for name in "123"] == [VersionState.CHAMPION, VersionState.RETIRED, VersionState.REJECTED]
    world.promoter.execute(partial(operator_commands.promote, version="2", operator="ada", reason="not that bad"))
    assert [world.state(name) for name in "123"] == [VersionState.RETIRED, VersionState.CHAMPION, VersionState.REJECTED]


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        (partial(operator_commands.promote, version="9"), "there is no version '9'; there are 1, 2, 3"),
        (partial(operator_commands.promote, version="1"), "champion already"),
        (partial(operator_commands.promote, version="2"), "was not gated"),
        (partial(operator_commands.promote, version="3"), "is rejected, which is final; promote one that is approval, canary, gated, retired, shadow"),
        (partial(operator_commands.reject, version="1"), "roll back"),
        (partial(operator_commands.reject, version="3"), "rejected already"),
        (partial(operator_commands.rollback, to=None, champion="1"), "no former champion"),
        (partial(operator_commands.rollback, to=None, champion="2"), "version 2 was to be given up, but version 1 is champion now"),
    ],
)
def test_what_the_state_machine_does_not_allow_is_refused_with_what_would_be_right(world: PromotionWorld, wish: Any, told: str) -> None:
    world.register(gate=None)
    world.register()
    world.promoter.execute(partial(operator_commands.reject, version="3", operator="ada", reason=""))
    before = shape(world.histories)
    with pytest.raises(CommandRefused, match=told):
        world.promoter.execute(partial(wish, operator="ada", reason=""))
    assert shape(world.histories) == before


@pytest.mark.parametrize(("operator", "reason"), [("", "x"), ("a" * 65, "x"), ("ada\n", "x"), (" ada", "x"), ("ada", "x" * 2_001)])
def test_a_wish_is_signed_with_a_name_that_can_be_shown(world: PromotionWorld, operator: str, reason: str) -> None:
    with pytest.raises(CommandRefused, match=r"1 to 64 printable|at most 2000"):
        world.promoter.execute(partial(operator_commands.rollback, to=None, champion="1", operator=operator, reason=reason))


def test_a_registry_from_before_transitions_were_recorded_is_adopted_with_its_champion() -> None:
    world = PromotionWorld()
    world.registry = MemoryRegistry()
    for _ in range(3):
        world.registry.register()
    world.registry.aliases = {Alias.CHAMPION: "2", Alias.CHALLENGER: "3"}
    world.inputs.gates = dict.fromkeys("123", PASSED)
    world.restart()
    world.run_until_idle()
    world.check_idle()
    assert [world.state(name) for name in "123"] == [VersionState.REGISTERED, VersionState.CHAMPION, VersionState.SHADOW]
    assert world.registry.get("2").transitions[-1].reason == state_machine.ADOPTED


def test_a_second_writer_is_noticed_before_anything_is_written(world: PromotionWorld) -> None:
    version = world.register()
    histories = world.histories
    other = Promoter(world.registry, PROMOTION, feed=world.inputs, gates=world.inputs, announce=world.events.append)
    other.reconcile()
    found = histories.get(version)
    assert found
    with pytest.raises(CannotContinue, match="only one promoter"):
        world.promoter._write(histories, histories.transition(found, VersionState.GATED, "promoter", "x", world.inputs.now))


def test_a_clock_that_is_set_back_does_not_change_who_is_champion(world: PromotionWorld) -> None:
    world.register()
    world.run_until_idle()
    world.inputs.now -= timedelta(days=3)
    world.promoter.execute(partial(operator_commands.promote, version="2", operator="ada", reason="now"))
    assert world.registry.aliases.get(Alias.CHAMPION) == "2" and world.state("1") is VersionState.RETIRED


def test_a_refusal_counts_after_a_clock_that_was_ahead_is_set_right(world: PromotionWorld) -> None:
    world.register()
    world.inputs.now += timedelta(hours=1)
    world.run_until_idle()
    world.inputs.now -= timedelta(hours=1)
    world.inputs.refused = {"2"}
    reports = world.inputs.observe(None).reports
    assert set(refusals(world.histories, reports, world.inputs.now + timedelta(seconds=5))) == {"2"}
    assert not refusals(world.histories, reports, world.inputs.now + timedelta(seconds=61))


def test_old_figures_and_those_of_another_experiment_decide_nothing(world: PromotionWorld) -> None:
    world.register()
    world.run_until_idle()
    histories = world.histories
    world.inputs.told = {"shadow": "better"}
    seen = world.inputs.observe(histories.experiment)
    assert verdict_of(histories, seen, PROMOTION, world.inputs.now) is not None
    assert verdict_of(histories, replace(seen, is_current=False), PROMOTION, world.inputs.now) is None
    assert verdict_of(histories, replace(seen, experiment=None), PROMOTION, world.inputs.now) is None
