from __future__ import annotations

from bench.quality.cost import measure


def test_every_cost_of_online_quality_is_measured() -> None:
    found = measure(50)
    assert found["responses_bytes"] > 3_000 and found["outcomes_bytes"] > found["responses_bytes"]
    assert all(value > 0 for value in found.values()) and len(found) == 8
