import pytest
import torch

from trainer.learn import rounding
from trainer.learn.rounding import rounded_by_chance

SHORT = [torch.bfloat16, torch.float16]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("value", [1.0, -1.0, 0.03, -0.03, 1e-6, -1e-6, 300.0, 3.4e-5])
def test_the_mean_is_the_number_and_each_result_a_neighbour(dtype: torch.dtype, value: float) -> None:
    exact = torch.full((200_000,), value) * (1 + 2**-13)  # between two numbers of both dtypes
    rounded = rounded_by_chance(exact, dtype, generator())
    assert rounded.dtype == dtype and rounded.isfinite().all()
    below, above = rounded.float().min(), rounded.float().max()
    assert rounded.unique().numel() == 2 and below < exact[0] < above
    assert float(torch.nextafter(below.to(torch.bfloat16), above.to(torch.bfloat16))) == float(above) or dtype == torch.float16
    assert float(rounded.double().mean() - exact[0].double()) == pytest.approx(0.0, abs=float(above - below) / 100)


@pytest.mark.parametrize("dtype", SHORT)
def test_numbers_that_the_dtype_has_stay(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 2.0**-14, float("inf"), float("-inf")])
    assert torch.equal(rounded_by_chance(values, dtype, generator()).float(), values)
    assert rounded_by_chance(torch.tensor([float("nan")]), dtype, generator()).isnan().all()
    assert rounded_by_chance(torch.ones(0, 3), dtype, generator()).shape == (0, 3)


def test_the_largest_number_does_not_become_infinite() -> None:
    values = torch.full((1000,), 65503.9)
    assert rounded_by_chance(values, torch.float16, generator()).isfinite().all()


def test_pieces_keep_the_order_and_other_dtypes_are_only_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "PIECE", 7)
    values = torch.arange(60.0).view(4, 15)
    assert torch.equal(rounded_by_chance(values.T, torch.bfloat16, generator()).float(), values.T)
    copy = rounded_by_chance(values, torch.float32, generator())
    assert torch.equal(copy, values) and copy.data_ptr() != values.data_ptr()
