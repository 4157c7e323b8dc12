"""The promoter over a registry in memory: one transition or refusal per test."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from infra.errors import CannotContinue, RetryLater
from lab.promotion.invariants import shape
from lab.promotion.scripted_inputs import PROMOTION, Figures
from schemas.gate import GateResult
from schemas.model_events import Alias
from schemas.promotion import VersionState
from tests.support.killed import Killed
from tests.support.memory_registry import MemoryRegistry
from tests.support.promoter_harness import PASSED, PROMPT, PromoterHarness
from trainer.promotion import state_machine
from trainer.promotion.operator_commands import CommandRefused, OperatorCommand
from trainer.promotion.promoter import Observations, Promoter, refusals, verdict_of


@pytest.fixture
def harness() -> PromoterHarness:
    return PromoterHarness()


def test_a_good_version_goes_from_gate_to_champion_and_the_old_one_retires(harness: PromoterHarness) -> None:
    harness.register()
    harness.run_until_idle()
    assert harness.state("2") is VersionState.SHADOW
    harness.inputs.figures = {"shadow": "better"}
    harness.run_until_idle()
    assert harness.state("2") is VersionState.CANARY
    harness.inputs.figures = {"canary": "better"}
    harness.run_until_idle()
    harness.check_idle()
    second, first = harness.registry.get("2"), harness.registry.get("1")
    assert [step.after for step in second.transitions] == [VersionState.GATED, VersionState.SHADOW, VersionState.CANARY, VersionState.CHAMPION]
    assert second.transitions[-1].replaces == "1" and first.state is VersionState.RETIRED and second.canary_prompts == (PROMPT,)
    shadow, canary = second.transitions[1:3]
    assert shadow.experiment and canary.experiment and shadow.experiment != canary.experiment
    assert (shadow.share, canary.share) == (PROMOTION.shadow_share, PROMOTION.canary_share)
    assert canary.evidence["gain"] and second.transitions[-1].evidence["reward"]


def test_stages_that_the_settings_leave_out_are_skipped() -> None:
    harness = PromoterHarness(PROMOTION.model_copy(update={"shadow_answers": 0, "canary_answers": 0}))
    harness.register()
    harness.run_until_idle()
    assert [step.after for step in harness.registry.get("2").transitions] == [VersionState.GATED, VersionState.CHAMPION]


@pytest.mark.parametrize(("outcome", "state"), [("rejected", VersionState.REJECTED), ("inconclusive", VersionState.INCONCLUSIVE)])
def test_a_rejected_or_inconclusive_gate_ends_a_version(harness: PromoterHarness, outcome: Any, state: VersionState) -> None:
    harness.register(GateResult(outcome=outcome, reason="as the gate says"))
    harness.run_until_idle()
    assert harness.state("2") is state and harness.registry.get("2").transitions[-1].reason == "as the gate says"


@pytest.mark.parametrize("stage", ["shadow", "canary"])
@pytest.mark.parametrize(("figures", "state"), [("harmful", VersionState.REJECTED), ("equal", VersionState.INCONCLUSIVE)])
def test_harm_rejects_a_version_and_no_difference_is_inconclusive(stage: str, figures: Figures, state: VersionState) -> None:
    harness = PromoterHarness(PROMOTION.model_copy(update={"shadow_answers": 100_000} if stage == "shadow" else {"canary_answers": 100_000}))
    harness.register()
    harness.inputs.figures = {"shadow": "better"} if stage == "canary" else {}
    harness.run_until_idle()
    harness.inputs.figures = {stage: figures}
    harness.inputs.now += timedelta(days=30)
    harness.run_until_idle()
    harness.check_idle()
    assert harness.state("2") is state and harness.registry.aliases.get(Alias.CHALLENGER) is None


@pytest.mark.parametrize("stage", ["shadow", "canary"])
def test_a_version_without_counted_answers_is_inconclusive_after_three_retries(harness: PromoterHarness, stage: str) -> None:
    harness.register()
    experiments = set()
    for _ in range(4):
        harness.inputs.figures = {"shadow": "better"} if stage == "canary" else {}
        harness.run_until_idle()
        assert harness.state("2") is VersionState(stage)
        experiments.add(harness.histories.experiment)
        harness.inputs.figures = {}
        harness.inputs.now += timedelta(days=30)
        assert harness.reconcile()
    back = next(step for step in harness.registry.get("2").transitions if step.after is VersionState.REGISTERED)
    assert len(experiments) == 4 and back.reason == f"no answer of its experiment was counted for {back.evidence['uncounted_s'] / 3600:.1f} hours"
    harness.run_until_idle()
    harness.check_idle()
    assert harness.state("2") is VersionState.INCONCLUSIVE and "again 3 times" in harness.registry.get("2").transitions[-1].reason


@pytest.mark.parametrize(("figures", "state"), [("equal", VersionState.SHADOW), ("harmful", VersionState.REJECTED), ("better", VersionState.CHAMPION)])
def test_a_canary_with_old_figures_is_retried_unless_they_decide(figures: Figures, state: VersionState) -> None:
    harness = PromoterHarness(PROMOTION.model_copy(update={"canary_answers": 100_000}))
    harness.register()
    harness.inputs.figures = {"shadow": "better"}
    harness.run_until_idle()
    harness.inputs.figures, harness.inputs.has_traffic = {"canary": figures}, False
    harness.inputs.now += (quiet := timedelta(hours=35))
    harness.inputs.uncounted = quiet
    if figures == "equal":
        harness.run_until_idle()
        assert harness.state("2") is VersionState.CANARY
    harness.inputs.now += timedelta(hours=2)
    harness.inputs.uncounted += timedelta(hours=2)
    harness.run_until_idle()
    harness.check_idle()
    assert harness.state("2") is state


def test_a_version_that_waits_for_approval_is_retried_if_its_answers_are_not_counted() -> None:
    harness = PromoterHarness(PROMOTION.model_copy(update={"approval": "person"}))
    harness.register()
    harness.inputs.figures = {"shadow": "better", "canary": "better"}
    harness.run_until_idle()
    harness.inputs.figures = {"canary": "better"}
    harness.inputs.uncounted = timedelta(hours=35)
    harness.inputs.now += timedelta(days=3)
    harness.run_until_idle()
    assert harness.state("2") is VersionState.APPROVAL
    harness.inputs.uncounted += timedelta(hours=2)
    harness.run_until_idle()
    harness.check_idle()
    assert [step.after for step in harness.registry.get("2").transitions[-4:]] == [
        VersionState.APPROVAL,
        VersionState.REGISTERED,
        VersionState.GATED,
        VersionState.SHADOW,
    ]


def test_without_traffic_no_time_limit_is_reached(harness: PromoterHarness) -> None:
    harness.register()
    harness.run_until_idle()
    harness.inputs.has_traffic = False
    for _ in range(3):
        harness.inputs.now += timedelta(days=30)
        assert not harness.reconcile() and harness.state("2") is VersionState.SHADOW
    harness.inputs.has_traffic = True
    before = harness.histories.experiment
    harness.run_until_idle()
    assert harness.state("2") is VersionState.SHADOW and harness.histories.experiment != before


def test_a_version_that_waits_for_approval_keeps_its_share_and_is_still_watched() -> None:
    harness = PromoterHarness(PROMOTION.model_copy(update={"approval": "person"}))
    harness.register()
    harness.inputs.figures = {"shadow": "better", "canary": "better"}
    harness.run_until_idle()
    canary, approval = harness.registry.get("2").transitions[-2:]
    assert harness.state("2") is VersionState.APPROVAL and (approval.experiment, approval.share) == (canary.experiment, canary.share)
    harness.inputs.now += timedelta(days=30)
    harness.run_until_idle()
    assert harness.state("2") is VersionState.APPROVAL
    harness.inputs.figures = {"canary": "harmful"}
    harness.run_until_idle()
    assert harness.state("2") is VersionState.REJECTED


def test_when_approval_becomes_automatic_only_current_figures_promote(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = PromoterHarness(PROMOTION.model_copy(update={"approval": "person"}))
    harness.register()
    harness.inputs.figures = {"shadow": "better", "canary": "better"}
    harness.run_until_idle()
    harness.promotion = PROMOTION
    harness.restart()
    with monkeypatch.context() as patch:
        patch.setattr(harness.inputs, "observe", lambda experiment: Observations(False, None))
        harness.run_until_idle()
        assert harness.state("2") is VersionState.APPROVAL
    harness.inputs.figures = {"canary": "equal"}
    harness.run_until_idle()
    assert harness.state("2") is VersionState.APPROVAL
    harness.inputs.figures = {"canary": "better"}
    harness.run_until_idle()
    assert harness.state("2") is VersionState.CHAMPION and harness.registry.get("2").transitions[-1].evidence["reward"]


@pytest.mark.parametrize(("canary_answers", "state"), [(0, VersionState.CHAMPION), (400, VersionState.APPROVAL)])
def test_a_version_without_a_canary_is_promoted_if_the_settings_have_no_canary(canary_answers: int, state: VersionState) -> None:
    harness = PromoterHarness(PROMOTION.model_copy(update={"approval": "person", "canary_answers": 0}))
    harness.register()
    harness.inputs.figures = {"shadow": "better"}
    harness.run_until_idle()
    assert harness.state("2") is VersionState.APPROVAL
    harness.promotion = PROMOTION.model_copy(update={"canary_answers": canary_answers})
    harness.restart()
    harness.run_until_idle()
    assert harness.state("2") is state


def test_one_version_is_tried_at_a_time_the_oldest_first(harness: PromoterHarness) -> None:
    for _ in range(3):
        harness.register()
    harness.run_until_idle()
    assert [harness.state(name) for name in "234"] == [VersionState.SHADOW, VersionState.GATED, VersionState.GATED]
    harness.inputs.figures = {"shadow": "harmful"}
    harness.reconcile()
    harness.inputs.figures = {}
    harness.run_until_idle()
    assert [harness.state(name) for name in "234"] == [VersionState.REJECTED, VersionState.SHADOW, VersionState.GATED]


def test_a_version_is_gated_again_after_the_champion_changes(harness: PromoterHarness) -> None:
    for _ in range(2):
        harness.register()
    harness.run_until_idle()
    harness.promoter.execute(OperatorCommand("promote", "3", "ada", "now"))
    assert [harness.state(name) for name in "123"] == [VersionState.RETIRED, VersionState.REGISTERED, VersionState.CHAMPION]
    assert harness.registry.aliases.get(Alias.CHALLENGER) is None
    harness.run_until_idle()
    assert [step.after for step in harness.registry.get("2").transitions[-2:]] == [VersionState.GATED, VersionState.SHADOW]


def test_a_version_with_an_unreadable_history_waits_alone_unless_it_has_an_alias(harness: PromoterHarness) -> None:
    for _ in range(2):
        harness.register()
    harness.registry.corrupt("2")
    harness.run_until_idle()
    assert harness.registry.get("3").state is VersionState.SHADOW
    harness.promoter.execute(OperatorCommand("promote", "3", "ada", "now"))
    assert harness.registry.aliases[Alias.CHAMPION] == "3"
    harness.registry.repair("2")
    harness.run_until_idle()
    assert harness.state("2") is VersionState.SHADOW
    for version in "23":  # challenger, champion
        harness.registry.corrupt(version)
        with pytest.raises(RetryLater, match=f"version {version}: its tag promotion.0001 is no transition"):
            harness.reconcile()
        harness.registry.repair(version)


def test_an_unreadable_history_of_a_new_champion_does_not_restore_the_old_one(harness: PromoterHarness) -> None:
    harness.register()
    harness.run_until_idle()
    harness.registry.kill_at = 1  # right after the handover, before any alias
    with pytest.raises(Killed):
        harness.promoter.execute(OperatorCommand("promote", "2", "ada", "now"))
    harness.registry.kill_at = None
    harness.restart()
    harness.registry.corrupt("2")
    with pytest.raises(RetryLater):
        harness.promoter.reconcile()
    harness.registry.repair("2")
    harness.run_until_idle()
    harness.check_idle()
    assert harness.registry.aliases[Alias.CHAMPION] == "2"


def test_a_refused_champion_is_rolled_back_to_the_former_one(harness: PromoterHarness) -> None:
    harness.register()
    harness.run_until_idle()
    harness.promoter.execute(OperatorCommand("promote", "2", "ada", "now"))
    harness.inputs.refused = {"2"}
    harness.run_until_idle()
    harness.check_idle()
    assert [harness.state(name) for name in "12"] == [VersionState.CHAMPION, VersionState.REJECTED]
    assert "model.safetensors" in harness.registry.get("1").transitions[-1].reason


def test_a_refused_champion_stays_without_a_former_one_or_if_the_settings_say_so(harness: PromoterHarness) -> None:
    harness.run_until_idle()
    harness.inputs.refused = {"1"}
    harness.run_until_idle()
    assert harness.state("1") is VersionState.CHAMPION
    other = PromoterHarness(PROMOTION.model_copy(update={"rollback_on_refusal": False}))
    other.register()
    other.run_until_idle()
    other.promoter.execute(OperatorCommand("promote", "2", "ada", "now"))
    other.inputs.refused = {"2"}
    other.run_until_idle()
    assert other.state("2") is VersionState.CHAMPION


def test_a_refused_challenger_is_rejected(harness: PromoterHarness) -> None:
    harness.register()
    harness.run_until_idle()
    harness.inputs.refused = {"2"}
    harness.run_until_idle()
    assert harness.state("2") is VersionState.REJECTED


def test_rollbacks_go_from_champion_to_champion_until_the_first(harness: PromoterHarness) -> None:
    for name in "23":
        harness.register()
        harness.run_until_idle()
        harness.promoter.execute(OperatorCommand("promote", name, "ada", "now"))
    for champion, expected in ("32", "21"):
        harness.promoter.execute(OperatorCommand("rollback", champion, "ada", "users complain"))
        assert harness.registry.aliases.get(Alias.CHAMPION) == expected
    with pytest.raises(CommandRefused, match="no former champion"):
        harness.promoter.execute(OperatorCommand("rollback", "1", "ada", "users complain"))
    assert [harness.state(name) for name in "123"] == [VersionState.CHAMPION, VersionState.REJECTED, VersionState.REJECTED]
    assert harness.registry.get("3").transitions[-1].actor == "ada"


def test_a_rollback_rejects_the_named_champion_and_no_other(harness: PromoterHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "23":
        harness.register()
        harness.run_until_idle()
        harness.promoter.execute(OperatorCommand("promote", name, "ada", "now"))
    back = OperatorCommand("rollback", "3", "ada", "users complain")

    def away(*_: object) -> None:
        raise RetryLater("the registry does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(harness.registry, "set_alias", away)  # the transition is written, and the operator gets an error
        with pytest.raises(RetryLater):
            harness.promoter.execute(back)
    with pytest.raises(CommandRefused, match="version 3 was to be rejected, but version 2 is champion now"):
        harness.promoter.execute(back)
    harness.register()
    harness.inputs.figures = {"shadow": "better", "canary": "better"}
    harness.run_until_idle()
    with pytest.raises(CommandRefused, match="version 4 is champion now"):
        harness.promoter.execute(replace(back, version="2"))
    assert [harness.state(name) for name in "1234"] == [VersionState.RETIRED, VersionState.RETIRED, VersionState.REJECTED, VersionState.CHAMPION]


def test_a_former_champion_may_be_promoted_or_rolled_back_to(harness: PromoterHarness) -> None:
    for name in "23":
        harness.register()
        harness.run_until_idle()
        harness.promoter.execute(OperatorCommand("promote", name, "ada", "now"))
    harness.promoter.execute(OperatorCommand("rollback", "3", "ada", "both are bad", to="1"))
    assert [harness.state(name) for name in "123"] == [VersionState.CHAMPION, VersionState.RETIRED, VersionState.REJECTED]
    harness.promoter.execute(OperatorCommand("promote", "2", "ada", "not that bad"))
    assert [harness.state(name) for name in "123"] == [VersionState.RETIRED, VersionState.CHAMPION, VersionState.REJECTED]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (OperatorCommand("promote", "9", "ada", ""), "there is no version '9'; there are 1, 2, 3"),
        (OperatorCommand("promote", "1", "ada", ""), "champion already"),
        (OperatorCommand("promote", "2", "ada", ""), "was not gated"),
        (OperatorCommand("promote", "3", "ada", ""), "is rejected, which is final; promote one that is approval, canary, gated, retired, shadow"),
        (OperatorCommand("reject", "1", "ada", ""), "a rollback rejects it"),
        (OperatorCommand("reject", "3", "ada", ""), "rejected already"),
        (OperatorCommand("rollback", "1", "ada", ""), "no former champion"),
        (OperatorCommand("rollback", "2", "ada", ""), "version 2 was to be rejected, but version 1 is champion now"),
    ],
)
def test_a_command_that_is_not_allowed_is_refused_with_what_would_be_right(harness: PromoterHarness, command: OperatorCommand, message: str) -> None:
    harness.register(gate=None)
    harness.register()
    harness.promoter.execute(OperatorCommand("reject", "3", "ada", ""))
    before = shape(harness.histories)
    with pytest.raises(CommandRefused, match=message):
        harness.promoter.execute(command)
    assert shape(harness.histories) == before


@pytest.mark.parametrize(("operator", "reason"), [("", "x"), ("a" * 65, "x"), ("ada\n", "x"), (" ada", "x"), ("ada", "x" * 2_001)])
def test_a_command_needs_a_printable_operator_name(harness: PromoterHarness, operator: str, reason: str) -> None:
    with pytest.raises(CommandRefused, match=r"1 to 64 printable|at most 2000"):
        harness.promoter.execute(OperatorCommand("rollback", "1", operator, reason))


def test_a_registry_without_transitions_is_adopted_with_its_champion() -> None:
    harness = PromoterHarness()
    harness.registry = MemoryRegistry()
    for _ in range(3):
        harness.registry.register()
    harness.registry.aliases = {Alias.CHAMPION: "2", Alias.CHALLENGER: "3"}
    harness.inputs.gates = dict.fromkeys("123", PASSED)
    harness.restart()
    harness.run_until_idle()
    harness.check_idle()
    assert [harness.state(name) for name in "123"] == [VersionState.REGISTERED, VersionState.CHAMPION, VersionState.SHADOW]
    assert harness.registry.get("2").transitions[-1].reason == state_machine.ADOPTED


def test_a_second_writer_is_detected_before_a_write(harness: PromoterHarness) -> None:
    version = harness.register()
    histories = harness.histories
    other = Promoter(harness.registry, PROMOTION, feed=harness.inputs, gates=harness.inputs, announce=harness.events.append)
    other.reconcile()
    result = histories.get(version)
    assert result
    with pytest.raises(CannotContinue, match="only one promoter"):
        harness.promoter._write(histories, histories.transition(result, VersionState.GATED, "promoter", "x", harness.inputs.now))


def test_a_clock_that_is_set_back_does_not_change_the_champion(harness: PromoterHarness) -> None:
    harness.register()
    harness.run_until_idle()
    harness.inputs.now -= timedelta(days=3)
    harness.promoter.execute(OperatorCommand("promote", "2", "ada", "now"))
    assert harness.registry.aliases.get(Alias.CHAMPION) == "2" and harness.state("1") is VersionState.RETIRED


def test_a_refusal_counts_after_a_clock_is_set_back(harness: PromoterHarness) -> None:
    harness.register()
    harness.inputs.now += timedelta(hours=1)
    harness.run_until_idle()
    harness.inputs.now -= timedelta(hours=1)
    harness.inputs.refused = {"2"}
    reports = harness.inputs.observe(None).reports
    assert set(refusals(harness.histories, reports, harness.inputs.now + timedelta(seconds=5))) == {"2"}
    assert not refusals(harness.histories, reports, harness.inputs.now + timedelta(seconds=61))


def test_old_figures_and_those_of_another_experiment_give_no_verdict(harness: PromoterHarness) -> None:
    harness.register()
    harness.run_until_idle()
    histories = harness.histories
    harness.inputs.figures = {"shadow": "better"}
    seen = harness.inputs.observe(histories.experiment)
    assert verdict_of(histories, seen, PROMOTION, harness.inputs.now) is not None
    assert verdict_of(histories, replace(seen, is_current=False), PROMOTION, harness.inputs.now) is None
    assert verdict_of(histories, replace(seen, experiment=None), PROMOTION, harness.inputs.now) is None
