"""The regimes change only trajectories and population."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.train.examples import Examples
from bench.train.regimes import REGIMES, Regime, degraded, named, population
from bench.train.source_data import Population
from infra.errors import BadSetting
from tests.support.outcomes import make_case
from trainer.data.query_cases import SftExample

CASES = [make_case(number, truth=letter, domain=domain) for domain in ("one", "two") for number, letter in enumerate("ab" * 20)]
SFT_EXAMPLES = [SftExample(case, case.items, f"{case.query.text} so {case.truth}") for case in CASES]
DATA = Examples("made", SFT_EXAMPLES, CASES, CASES, CASES, {}, {}, {"lessons": len(SFT_EXAMPLES)})


def test_a_name_selects_one_regime_or_a_family() -> None:
    assert [regime.name for regime in named("few")] == ["few-60", "few-150", "few-400"]
    assert [regime.name for regime in named("few-60")] == ["few-60"]
    with pytest.raises(BadSetting, match="--regime fewer: unknown; expected one of plain, few-60"):
        named("fewer")


def test_the_draw_of_few_trajectories_is_repeatable_and_keeps_all_outcomes() -> None:
    regime = Regime("few-7", "", trajectories=7)
    changed = degraded(DATA, regime, 0)
    assert changed.sft_examples == degraded(DATA, regime, 0).sft_examples != degraded(DATA, regime, 1).sft_examples
    assert (len(changed.sft_examples), changed.counts["lessons"], changed.training) == (7, 7, DATA.training)


def test_noise_exchanges_reasoning_and_truth_within_a_domain() -> None:
    changed = degraded(DATA, Regime("noisy", "", noise=0.5), 0)
    wrong = [example for example in changed.sft_examples if example.reasoning != f"{example.case.query.text} so {example.case.truth}"]
    assert Counter(example.case.domain for example in wrong) == {"one": 20, "two": 20}
    assert sorted(example.reasoning for example in changed.sft_examples) == sorted(example.reasoning for example in SFT_EXAMPLES)


def test_a_silent_domain_has_outcomes_but_no_trajectory() -> None:
    changed = degraded(DATA, Regime("silent", "", silent="one"), 0)
    assert {example.case.domain for example in changed.sft_examples} == {"two"} and {case.domain for case in changed.training} == {"one", "two"}


def test_the_plain_regime_changes_nothing_and_drift_changes_the_population() -> None:
    plain = next(regime for regime in REGIMES if regime.name == "plain")
    assert Counter(example.case.case_id for example in degraded(DATA, plain, 0).sft_examples) == Counter(example.case.case_id for example in SFT_EXAMPLES)
    assert population(plain, Population()) == Population() and population(Regime("drift", "", drift=0.6), Population()).drift == 0.6
