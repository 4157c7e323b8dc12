from __future__ import annotations

import itertools
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.index.server import DIGITS, requests_of
from streams.index.tenant_filter import Point, Vector

MOST = 1_000


@dataclass
class StubPoint:
    content: str
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    vector: Vector = field(default_factory=lambda: np.ones(3, dtype=np.float32))

    def payload(self) -> dict[str, Any]:
        return {"content": self.content}


def size(*points: Point) -> int:
    return sum(DIGITS * len(point.vector) + len(json.dumps(point.payload())) for point in points)


@given(st.lists(st.integers(0, 2 * MOST).map("é".__mul__), max_size=12))
def test_points_keep_their_order_in_few_requests_that_a_server_takes(contents: list[str]) -> None:
    points = [StubPoint(content) for content in contents]
    requests = list(requests_of(points, MOST))
    assert [point for request in requests for point in request] == points
    assert all(len(request) == 1 or size(*request) <= MOST for request in requests)
    assert all(size(*one, other[0]) > MOST for one, other in itertools.pairwise(requests))
