from __future__ import annotations

import pytest

from bench.train.collection import CollectionCosts, measure, measure_here, records
from infra.errors import CannotContinue
from infra.settings.training import TrainerSettings
from trainer.data.collect import assemble


def test_generated_records_are_read_like_real_ones() -> None:
    found = assemble({}, records(300), TrainerSettings())
    assert found.counts["trajectories"] == found.counts["outcomes"] == 300
    assert found.counts["lessons"] + found.counts["trajectories.held_out"] == 300
    assert not [name for name in found.counts if name.endswith((".malformed", ".repeated", ".over_user_share"))]
    assert len({example.case.query.text for example in found.sft_examples}) == len(found.sft_examples) > 100


def test_a_size_is_measured_in_this_process_and_in_its_own_process() -> None:
    here = measure_here(300)
    found = measure((300,))
    assert isinstance(found, CollectionCosts) and found.growth == 1.0
    assert (found.costs[0].trajectories, found.costs[0].lessons, found.costs[0].text_bytes) == (300, here.lessons, here.text_bytes)


def test_a_failed_process_is_reported_with_its_last_line() -> None:
    with pytest.raises(CannotContinue, match=r"measurement of -1 trajectories failed: .*Error"):
        measure((-1,))
