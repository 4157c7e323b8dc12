from __future__ import annotations

import pytest

from bench.train.collection import CollectionCosts, measure, measure_here, records
from infra.errors import CannotContinue
from infra.settings.training import TrainerSettings
from trainer.data.collect import assemble


def test_generated_records_are_read_like_real_ones() -> None:
    snapshot = assemble({}, records(300), TrainerSettings())
    assert snapshot.counts["trajectories"] == snapshot.counts["outcomes"] == 300
    assert snapshot.counts["lessons"] + snapshot.counts["trajectories.held_out"] == 300
    assert not [name for name in snapshot.counts if name.endswith((".malformed", ".repeated", ".over_user_share"))]
    assert len({example.case.query.text for example in snapshot.sft_examples}) == len(snapshot.sft_examples) > 100


def test_a_size_is_measured_in_this_process_and_in_its_own_process() -> None:
    here = measure_here(300)
    costs = measure((300,))
    assert isinstance(costs, CollectionCosts) and costs.growth == 1.0
    assert (costs.costs[0].trajectories, costs.costs[0].lessons, costs.costs[0].text_bytes) == (300, here.lessons, here.text_bytes)


def test_a_failed_process_is_reported_with_its_last_line() -> None:
    with pytest.raises(CannotContinue, match=r"measurement of -1 trajectories failed: .*Error"):
        measure((-1,))
