import pytest

from trainer.learn.rl_engine import rate_schedule


def test_the_rate_warms_up_and_decays_to_a_floor() -> None:
    rate = rate_schedule(100)
    assert rate(0) == pytest.approx(0.1) and rate(9) > 0.9 and rate(50) == pytest.approx(0.5) and rate(99) == pytest.approx(0.1)
