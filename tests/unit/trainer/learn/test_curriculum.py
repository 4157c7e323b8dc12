import threading
from collections import Counter
from pathlib import Path

import pytest

from infra.settings.training import RlSettings
from schemas.domain_entries import DomainEntry
from schemas.domains import Domains
from schemas.prompts import COMPACT, PromptForm, PromptStyle
from tests.support.outcomes import make_case
from tests.support.token_limits import limits
from trainer.data.prompts import Prompter
from trainer.learn.curriculum import CaseSampler, ShuffledOrder, k_of, schedule_prompts, stage_of
from trainer.learn.policy import Policy
from trainer.learn.rl_engine import RlInputs


def test_every_k_gets_an_equal_slice_in_rising_order() -> None:
    ks = [k_of(step, 40, 2, 6) for step in range(40)]
    assert ks == sorted(ks) and Counter(ks) == dict.fromkeys(range(2, 7), 8)
    assert [stage_of(step, 40, 2, 6) for step in (0, 39)] == [0, 4]


@pytest.mark.parametrize(("steps", "k_min", "k_max"), [(1, 2, 6), (3, 2, 6), (7, 2, 6), (10, 4, 4)])
def test_k_stays_within_its_bounds_for_any_number_of_steps(steps: int, k_min: int, k_max: int) -> None:
    ks = [k_of(step, steps, k_min, k_max) for step in range(steps)]
    assert ks[0] == k_min and max(ks) <= k_max and ks == sorted(ks)


def test_the_curriculum_of_a_domain_ends_with_its_own_k(tiny_checkpoint: Path) -> None:
    domains = {"few": DomainEntry(k=1), "some": DomainEntry(k=3), "many": DomainEntry(k=5), "other": DomainEntry()}
    prompter = Prompter(Policy.load(tiny_checkpoint).tokenizer, PromptForm(PromptStyle.COMPACT, Domains(domains)), limits(512))
    rl = RlSettings(steps=8, prompts_per_step=4, candidates=2, k_min=2, k_max=4)
    schedule = schedule_prompts(
        RlInputs(Policy.load(tiny_checkpoint), [make_case(domain=name, items=6) for name in domains], prompter, rl, 0, threading.Event())
    )
    shown = {name: [next(row.shown for row in rows if schedule.cases[row.case].domain == name) for rows in schedule.prompts] for name in domains}
    assert shown["few"] == [1] * 8
    assert shown["some"] == [2] * 4 + [3] * 4
    assert shown["many"] == [2] * 2 + [3] * 2 + [4] * 2 + [5] * 2
    assert shown["other"] == schedule.ks == [2, 2, 2, 3, 3, 3, 4, 4]


TOO_LONG = make_case(9, base="a" * 2000)  # fits no context of 200 tokens


def test_a_shuffled_order_has_every_position_once_a_round_and_resumes() -> None:
    order, restored = ShuffledOrder(5, 1), ShuffledOrder(5, 2)
    assert sorted(order.draw() for _ in range(5)) == [0, 1, 2, 3, 4]
    for _ in range(3):
        order.draw()
    restored.restore(order.state())
    assert [restored.draw() for _ in range(9)] == [order.draw() for _ in range(9)]


def test_draws_follow_the_shuffled_order_and_find_the_only_case_that_fits(tiny_checkpoint: Path) -> None:
    prompter = Prompter(Policy.load(tiny_checkpoint).tokenizer, COMPACT, limits(200))
    fitting = [make_case(n) for n in range(5)]
    sampler, order = CaseSampler(fitting, prompter, 3), ShuffledOrder(5, 3)
    for count in (2, 7, 1, 3):
        assert sampler.draw(count) == ([order.draw() for _ in range(count)], 0)
    assert sampler.order.state() == order.state()
    indices, skipped = CaseSampler([TOO_LONG, TOO_LONG, fitting[0], TOO_LONG], prompter, 0).draw(20)
    assert indices == [2] * 20 and 57 <= skipped <= 60


def test_a_truth_with_a_control_mark_of_the_policy_is_not_drawn(tiny_checkpoint: Path) -> None:
    prompter = Prompter(Policy.load(tiny_checkpoint).tokenizer, COMPACT, limits(512))
    cases = [make_case(0, options=(), truth="so <|im_end|>"), make_case(1, options=(), truth="so <|eot_id|>")]
    indices, skipped = CaseSampler(cases, prompter, 0).draw(3)
    assert indices == [1] * 3 and skipped >= 2  # the second holds a mark of other tokenizers
