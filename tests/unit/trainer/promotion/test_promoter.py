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
from tests.unit.trainer.promotion.memory import Killed, MemoryRegistry
from tests.unit.trainer.promotion.world import PASSED, PROMPT, World
from trainer.promotion import operator_commands, state_machine
from trainer.promotion.feed import Seen
from trainer.promotion.operator_api import Refused
from trainer.promotion.promoter import Promoter, refusals, verdict_of


@pytest.fixture
def world() -> World:
    return World()


def test_a_good_version_goes_from_gate_to_champion_and_the_old_one_retires(world: World) -> None:
    world.register()
    world.quiet()
    assert world.state("2") is VersionState.SHADOW
    world.script.told = {"shadow": "better"}
    world.quiet()
    assert world.state("2") is VersionState.CANARY
    world.script.told = {"canary": "better"}
    world.quiet()
    world.check_quiet()
    second, first = world.registry.get("2"), world.registry.get("1")
    assert [step.after for step in second.transitions] == [VersionState.GATED, VersionState.SHADOW, VersionState.CANARY, VersionState.CHAMPION]
    assert second.transitions[-1].replaces == "1" and first.state is VersionState.RETIRED and second.canary_prompts == (PROMPT,)
    shadow, canary = second.transitions[1:3]
    assert shadow.experiment and canary.experiment and shadow.experiment != canary.experiment
    assert (shadow.share, canary.share) == (PROMOTION.shadow_share, PROMOTION.canary_share)
    assert canary.evidence["gain"] and second.transitions[-1].evidence["reward"]


def test_stages_that_the_settings_leave_out_are_passed_over() -> None:
    world = World(PROMOTION.model_copy(update={"shadow_answers": 0, "canary_answers": 0}))
    world.register()
    world.quiet()
    assert [step.after for step in world.registry.get("2").transitions] == [VersionState.GATED, VersionState.CHAMPION]


@pytest.mark.parametrize(("outcome", "state"), [("rejected", VersionState.REJECTED), ("inconclusive", VersionState.INCONCLUSIVE)])
def test_the_gate_turns_down_what_is_worse_and_what_is_not_better(world: World, outcome: Any, state: VersionState) -> None:
    world.register(GateResult(outcome=outcome, reason="as the gate says"))
    world.quiet()
    assert world.state("2") is state and world.registry.get("2").transitions[-1].reason == "as the gate says"


@pytest.mark.parametrize("stage", ["shadow", "canary"])
@pytest.mark.parametrize(("told", "state"), [("harmful", VersionState.REJECTED), ("equal", VersionState.INCONCLUSIVE)])
def test_a_version_that_harms_its_users_is_rejected_and_one_that_nobody_can_tell_is_inconclusive(stage: str, told: Told, state: VersionState) -> None:
    world = World(PROMOTION.model_copy(update={"shadow_answers": 100_000} if stage == "shadow" else {"canary_answers": 100_000}))
    world.register()
    world.script.told = {"shadow": "better"} if stage == "canary" else {}
    world.quiet()
    world.script.told = {stage: told}
    world.script.now += timedelta(days=30)
    world.quiet()
    world.check_quiet()
    assert world.state("2") is state and world.registry.aliases.get(Alias.CHALLENGER) is None


@pytest.mark.parametrize("stage", ["shadow", "canary"])
def test_a_version_whose_answers_nobody_counts_is_tried_anew_three_times_and_then_inconclusive(world: World, stage: str) -> None:
    world.register()
    experiments = set()
    for _ in range(4):
        world.script.told = {"shadow": "better"} if stage == "canary" else {}
        world.quiet()
        assert world.state("2") is VersionState(stage)
        experiments.add(world.ledger.experiment)
        world.script.told = {}
        world.script.now += timedelta(days=30)
        assert world.look()
    back = next(step for step in world.registry.get("2").transitions if step.after is VersionState.REGISTERED)
    assert len(experiments) == 4 and back.reason == f"no answer of its experiment was counted for {back.evidence['uncounted_s'] / 3600:.1f} hours"
    world.quiet()
    world.check_quiet()
    assert world.state("2") is VersionState.INCONCLUSIVE and "anew 3 times" in world.registry.get("2").transitions[-1].reason


@pytest.mark.parametrize(("told", "state"), [("equal", VersionState.SHADOW), ("harmful", VersionState.REJECTED), ("better", VersionState.CHAMPION)])
def test_a_canary_whose_figures_stand_still_is_taken_back_unless_they_decide(told: Told, state: VersionState) -> None:
    world = World(PROMOTION.model_copy(update={"canary_answers": 100_000}))
    world.register()
    world.script.told = {"shadow": "better"}
    world.quiet()
    world.script.told, world.script.is_asked = {"canary": told}, False
    world.script.now += (quiet := timedelta(hours=35))
    world.script.uncounted = quiet
    if told == "equal":
        world.quiet()
        assert world.state("2") is VersionState.CANARY
    world.script.now += timedelta(hours=2)
    world.script.uncounted += timedelta(hours=2)
    world.quiet()
    world.check_quiet()
    assert world.state("2") is state


def test_a_version_that_waits_for_a_person_is_taken_back_once_nobody_counts_what_it_does() -> None:
    world = World(PROMOTION.model_copy(update={"approval": "person"}))
    world.register()
    world.script.told = {"shadow": "better", "canary": "better"}
    world.quiet()
    world.script.told = {"canary": "better"}
    world.script.uncounted = timedelta(hours=35)
    world.script.now += timedelta(days=3)
    world.quiet()
    assert world.state("2") is VersionState.APPROVAL
    world.script.uncounted += timedelta(hours=2)
    world.quiet()
    world.check_quiet()
    assert [step.after for step in world.registry.get("2").transitions[-4:]] == [
        VersionState.APPROVAL,
        VersionState.REGISTERED,
        VersionState.GATED,
        VersionState.SHADOW,
    ]


def test_while_nobody_asks_no_time_is_up_and_nothing_is_written(world: World) -> None:
    world.register()
    world.quiet()
    world.script.is_asked = False
    for _ in range(3):
        world.script.now += timedelta(days=30)
        assert not world.look() and world.state("2") is VersionState.SHADOW
    world.script.is_asked = True
    before = world.ledger.experiment
    world.quiet()
    assert world.state("2") is VersionState.SHADOW and world.ledger.experiment != before


def test_with_approval_by_a_person_a_better_version_waits_serves_on_and_is_still_watched() -> None:
    world = World(PROMOTION.model_copy(update={"approval": "person"}))
    world.register()
    world.script.told = {"shadow": "better", "canary": "better"}
    world.quiet()
    canary, approval = world.registry.get("2").transitions[-2:]
    assert world.state("2") is VersionState.APPROVAL and (approval.experiment, approval.share) == (canary.experiment, canary.share)
    world.script.now += timedelta(days=30)
    world.quiet()
    assert world.state("2") is VersionState.APPROVAL
    world.script.told = {"canary": "harmful"}
    world.quiet()
    assert world.state("2") is VersionState.REJECTED


def test_a_version_that_waits_for_approval_when_it_becomes_automatic_is_crowned_by_figures_of_now_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(PROMOTION.model_copy(update={"approval": "person"}))
    world.register()
    world.script.told = {"shadow": "better", "canary": "better"}
    world.quiet()
    world.promotion = PROMOTION
    world.live()
    with monkeypatch.context() as patch:
        patch.setattr(world.script, "seen", lambda experiment: Seen(False, None))
        world.quiet()
        assert world.state("2") is VersionState.APPROVAL
    world.script.told = {"canary": "equal"}
    world.quiet()
    assert world.state("2") is VersionState.APPROVAL
    world.script.told = {"canary": "better"}
    world.quiet()
    assert world.state("2") is VersionState.CHAMPION and world.registry.get("2").transitions[-1].evidence["reward"]


@pytest.mark.parametrize(("canary_answers", "state"), [(0, VersionState.CHAMPION), (400, VersionState.APPROVAL)])
def test_a_version_that_waits_without_a_canary_is_crowned_where_the_settings_want_none(canary_answers: int, state: VersionState) -> None:
    world = World(PROMOTION.model_copy(update={"approval": "person", "canary_answers": 0}))
    world.register()
    world.script.told = {"shadow": "better"}
    world.quiet()
    assert world.state("2") is VersionState.APPROVAL
    world.promotion = PROMOTION.model_copy(update={"canary_answers": canary_answers})
    world.live()
    world.quiet()
    assert world.state("2") is state


def test_one_version_is_tried_at_a_time_the_oldest_first(world: World) -> None:
    for _ in range(3):
        world.register()
    world.quiet()
    assert [world.state(name) for name in "234"] == [VersionState.SHADOW, VersionState.GATED, VersionState.GATED]
    world.script.told = {"shadow": "harmful"}
    world.look()
    world.script.told = {}
    world.quiet()
    assert [world.state(name) for name in "234"] == [VersionState.REJECTED, VersionState.SHADOW, VersionState.GATED]


def test_a_comparison_with_a_champion_that_gave_way_is_void_and_the_version_is_gated_anew(world: World) -> None:
    for _ in range(2):
        world.register()
    world.quiet()
    world.promoter.obey(partial(operator_commands.promote, version="3", operator="ada", reason="now"))
    assert [world.state(name) for name in "123"] == [VersionState.RETIRED, VersionState.REGISTERED, VersionState.CHAMPION]
    assert world.registry.aliases.get(Alias.CHALLENGER) is None
    world.quiet()
    assert [step.after for step in world.registry.get("2").transitions[-2:]] == [VersionState.GATED, VersionState.SHADOW]


def test_a_version_whose_log_cannot_be_read_waits_alone_unless_an_alias_names_it(world: World) -> None:
    for _ in range(2):
        world.register()
    world.registry.spoil("2")
    world.quiet()
    assert world.registry.get("3").state is VersionState.SHADOW
    world.promoter.obey(partial(operator_commands.promote, version="3", operator="ada", reason="now"))
    assert world.registry.aliases[Alias.CHAMPION] == "3"
    world.registry.mend("2")
    world.quiet()
    assert world.state("2") is VersionState.SHADOW
    for version in "23":  # challenger, champion
        world.registry.spoil(version)
        with pytest.raises(RetryLater, match=f"version {version}: its tag promotion.0001 is no transition"):
            world.look()
        world.registry.mend(version)


def test_nobody_stays_champion_because_the_log_of_the_next_one_cannot_be_read(world: World) -> None:
    world.register()
    world.quiet()
    world.registry.kill_at = 1  # right after the handover, before any alias
    with pytest.raises(Killed):
        world.promoter.obey(partial(operator_commands.promote, version="2", operator="ada", reason="now"))
    world.registry.kill_at = None
    world.live()
    world.registry.spoil("2")
    with pytest.raises(RetryLater):
        world.promoter.look()
    world.registry.mend("2")
    world.quiet()
    world.check_quiet()
    assert world.registry.aliases[Alias.CHAMPION] == "2"


def test_a_champion_that_a_worker_refuses_gives_way_to_the_one_before(world: World) -> None:
    world.register()
    world.quiet()
    world.promoter.obey(partial(operator_commands.promote, version="2", operator="ada", reason="now"))
    world.script.refused = {"2"}
    world.quiet()
    world.check_quiet()
    assert [world.state(name) for name in "12"] == [VersionState.CHAMPION, VersionState.REJECTED]
    assert "model.safetensors" in world.registry.get("1").transitions[-1].reason


def test_a_refused_first_champion_serves_on_where_others_do_and_so_does_a_refused_one_where_the_settings_say_so(world: World) -> None:
    world.quiet()
    world.script.refused = {"1"}
    world.quiet()
    assert world.state("1") is VersionState.CHAMPION
    other = World(PROMOTION.model_copy(update={"rollback_on_refusal": False}))
    other.register()
    other.quiet()
    other.promoter.obey(partial(operator_commands.promote, version="2", operator="ada", reason="now"))
    other.script.refused = {"2"}
    other.quiet()
    assert other.state("2") is VersionState.CHAMPION


def test_a_challenger_that_a_worker_refuses_is_rejected(world: World) -> None:
    world.register()
    world.quiet()
    world.script.refused = {"2"}
    world.quiet()
    assert world.state("2") is VersionState.REJECTED


def test_rolling_back_goes_from_champion_to_champion_and_no_further_than_the_first(world: World) -> None:
    for name in "23":
        world.register()
        world.quiet()
        world.promoter.obey(partial(operator_commands.promote, version=name, operator="ada", reason="now"))
    back = partial(operator_commands.rollback, to=None, operator="ada", reason="users complain")
    for champion, expected in ("32", "21"):
        world.promoter.obey(partial(back, champion=champion))
        assert world.registry.aliases.get(Alias.CHAMPION) == expected
    with pytest.raises(Refused, match="no former champion"):
        world.promoter.obey(partial(back, champion="1"))
    assert [world.state(name) for name in "123"] == [VersionState.CHAMPION, VersionState.REJECTED, VersionState.REJECTED]
    assert world.registry.get("3").transitions[-1].actor == "ada"


def test_a_rollback_gives_up_the_champion_that_was_meant_and_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "23":
        world.register()
        world.quiet()
        world.promoter.obey(partial(operator_commands.promote, version=name, operator="ada", reason="now"))
    back = partial(operator_commands.rollback, to=None, champion="3", operator="ada", reason="users complain")

    def away(*_: object) -> None:
        raise RetryLater("the registry does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.registry, "point", away)  # the log is written, and the operator does not know
        with pytest.raises(RetryLater):
            world.promoter.obey(back)
    with pytest.raises(Refused, match="version 3 was to be given up, but version 2 is champion now"):
        world.promoter.obey(back)
    world.register()
    world.script.told = {"shadow": "better", "canary": "better"}
    world.quiet()
    with pytest.raises(Refused, match="version 4 is champion now"):
        world.promoter.obey(partial(back, champion="2"))
    assert [world.state(name) for name in "1234"] == [VersionState.RETIRED, VersionState.RETIRED, VersionState.REJECTED, VersionState.CHAMPION]


def test_a_former_champion_may_be_promoted_again_or_be_the_aim_of_a_rollback(world: World) -> None:
    for name in "23":
        world.register()
        world.quiet()
        world.promoter.obey(partial(operator_commands.promote, version=name, operator="ada", reason="now"))
    world.promoter.obey(partial(operator_commands.rollback, to="1", champion="3", operator="ada", reason="both are bad"))
    assert [world.state(name) for name in "123"] == [VersionState.CHAMPION, VersionState.RETIRED, VersionState.REJECTED]
    world.promoter.obey(partial(operator_commands.promote, version="2", operator="ada", reason="not that bad"))
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
def test_what_the_state_machine_does_not_allow_is_refused_with_what_would_be_right(world: World, wish: Any, told: str) -> None:
    world.register(gate=None)
    world.register()
    world.promoter.obey(partial(operator_commands.reject, version="3", operator="ada", reason=""))
    before = shape(world.ledger)
    with pytest.raises(Refused, match=told):
        world.promoter.obey(partial(wish, operator="ada", reason=""))
    assert shape(world.ledger) == before


@pytest.mark.parametrize(("operator", "reason"), [("", "x"), ("a" * 65, "x"), ("ada\n", "x"), (" ada", "x"), ("ada", "x" * 2_001)])
def test_a_wish_is_signed_with_a_name_that_can_be_shown(world: World, operator: str, reason: str) -> None:
    with pytest.raises(Refused, match=r"1 to 64 printable|at most 2000"):
        world.promoter.obey(partial(operator_commands.rollback, to=None, champion="1", operator=operator, reason=reason))


def test_a_registry_from_before_transitions_were_recorded_is_adopted_with_its_champion() -> None:
    world = World()
    world.registry = MemoryRegistry()
    for _ in range(3):
        world.registry.register()
    world.registry.aliases = {Alias.CHAMPION: "2", Alias.CHALLENGER: "3"}
    world.script.gates = dict.fromkeys("123", PASSED)
    world.live()
    world.quiet()
    world.check_quiet()
    assert [world.state(name) for name in "123"] == [VersionState.REGISTERED, VersionState.CHAMPION, VersionState.SHADOW]
    assert world.registry.get("2").transitions[-1].reason == state_machine.ADOPTED


def test_a_second_writer_is_noticed_before_anything_is_written(world: World) -> None:
    version = world.register()
    ledger = world.ledger
    other = Promoter(world.registry, PROMOTION, feed=world.script, gates=world.script, announce=world.said.append)
    other.look()
    found = ledger.get(version)
    assert found
    with pytest.raises(CannotContinue, match="only one promoter"):
        world.promoter._write(ledger, ledger.step(found, VersionState.GATED, "promoter", "x", world.script.now))


def test_a_clock_that_is_set_back_does_not_change_who_is_champion(world: World) -> None:
    world.register()
    world.quiet()
    world.script.now -= timedelta(days=3)
    world.promoter.obey(partial(operator_commands.promote, version="2", operator="ada", reason="now"))
    assert world.registry.aliases.get(Alias.CHAMPION) == "2" and world.state("1") is VersionState.RETIRED


def test_a_refusal_counts_after_a_clock_that_was_ahead_is_set_right(world: World) -> None:
    world.register()
    world.script.now += timedelta(hours=1)
    world.quiet()
    world.script.now -= timedelta(hours=1)
    world.script.refused = {"2"}
    reports = world.script.seen(None).reports
    assert set(refusals(world.ledger, reports, world.script.now + timedelta(seconds=5))) == {"2"}
    assert not refusals(world.ledger, reports, world.script.now + timedelta(seconds=61))


def test_old_figures_and_those_of_another_experiment_decide_nothing(world: World) -> None:
    world.register()
    world.quiet()
    ledger = world.ledger
    world.script.told = {"shadow": "better"}
    seen = world.script.seen(ledger.experiment)
    assert verdict_of(ledger, seen, PROMOTION, world.script.now) is not None
    assert verdict_of(ledger, replace(seen, is_current=False), PROMOTION, world.script.now) is None
    assert verdict_of(ledger, replace(seen, experiment=None), PROMOTION, world.script.now) is None
