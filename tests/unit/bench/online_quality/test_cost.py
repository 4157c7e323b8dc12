from __future__ import annotations

from bench.online_quality.cost import measure


def test_every_cost_of_online_quality_is_measured() -> None:
    costs = measure(50)
    assert costs["responses_bytes"] > 3_000 and costs["outcomes_bytes"] > costs["responses_bytes"]
    assert all(value > 0 for value in costs.values()) and len(costs) == 8
