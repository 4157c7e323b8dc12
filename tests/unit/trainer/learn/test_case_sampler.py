from pathlib import Path

from schemas.prompts import PromptStyle
from tests.support.outcomes import make_case
from trainer.data.prompts import Prompter
from trainer.learn.case_sampler import CaseSampler, ShuffledOrder
from trainer.learn.policy import Policy

TOO_LONG = make_case(9, base="a" * 2000)  # fits no context of 200 tokens


def test_a_shuffled_order_has_every_position_once_a_round_and_resumes() -> None:
    order, restored = ShuffledOrder(5, 1), ShuffledOrder(5, 2)
    assert sorted(order.draw() for _ in range(5)) == [0, 1, 2, 3, 4]
    for _ in range(3):
        order.draw()
    restored.restore(order.state())
    assert [restored.draw() for _ in range(9)] == [order.draw() for _ in range(9)]


def test_draws_follow_the_shuffled_order_and_find_the_only_case_that_fits(tiny_checkpoint: Path) -> None:
    prompter = Prompter(Policy.load(tiny_checkpoint).tokenizer, PromptStyle.COMPACT, 200)
    fitting = [make_case(n) for n in range(5)]
    sampler, order = CaseSampler(fitting, prompter, 3), ShuffledOrder(5, 3)
    for count in (2, 7, 1, 3):
        assert sampler.draw(count) == ([order.draw() for _ in range(count)], 0)
    assert sampler.order.state() == order.state()
    indices, skipped = CaseSampler([TOO_LONG, TOO_LONG, fitting[0], TOO_LONG], prompter, 0).draw(20)
    assert indices == [2] * 20 and 57 <= skipped <= 60
