from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pico.server.batching import MAX_WAITS, GatheringBackend
from workers.serving.engines.backend import BackendCompletion
from workers.serving.engines.engine import FinishReason, SamplingParameters

SAMPLING = SamplingParameters(max_new_tokens=1)


class RecordingBackend:
    """A backend that finishes all requests in each step and records their number."""

    def __init__(self) -> None:
        self.admitted: list[int] = []
        self.sizes: list[int] = []

    def admit(self, request_id: int, token_ids: list[int], sampling: SamplingParameters) -> None:
        self.admitted.append(request_id)

    def abort(self, request_id: int) -> None:
        self.admitted.remove(request_id)

    def step(self) -> Sequence[BackendCompletion]:
        completions = [BackendCompletion(request_id, "", (1,), FinishReason.STOP) for request_id in self.admitted]
        self.sizes.append(len(completions))
        self.admitted.clear()
        return completions

    def load(self, checkpoint: Path) -> None: ...

    def close(self) -> None: ...


def run(arrivals: list[int], full: int = 64) -> tuple[RecordingBackend, int]:
    """`arrivals[i]` requests arrive before step i. Returns the backend and the number of waits."""
    inner, waits = RecordingBackend(), 0

    def wait(seconds: float) -> None:
        nonlocal waits
        waits += 1

    backend = GatheringBackend(inner, full, wait)
    ids = iter(range(10_000))
    for arriving in arrivals:
        for _ in range(arriving):
            backend.admit(next(ids), [1], SAMPLING)
        if inner.admitted:
            backend.step()
    return inner, waits


def test_a_single_request_waits_once() -> None:
    inner, waits = run([1, 0])
    assert (inner.sizes, waits) == ([1], 1)


def test_requests_that_arrive_one_by_one_share_a_batch() -> None:
    inner, waits = run([1, 5, 20, 0])
    assert (inner.sizes, waits) == ([26], 3)


def test_a_full_batch_does_not_wait() -> None:
    inner, waits = run([8], full=8)
    assert (inner.sizes, waits) == ([8], 0)


def test_the_number_of_waits_is_limited() -> None:
    inner, _ = run([1] * (MAX_WAITS + 1))
    assert inner.sizes == [MAX_WAITS + 1]


def test_each_batch_waits_again() -> None:
    inner, waits = run([1, 0, 1, 0])
    assert (inner.sizes, waits) == ([1, 1], 2)


def test_an_aborted_request_does_not_count() -> None:
    inner = RecordingBackend()
    backend = GatheringBackend(inner, 2, lambda seconds: None)
    backend.admit(1, [1], SAMPLING)
    backend.abort(1)
    backend.admit(2, [1], SAMPLING)
    assert backend.step() == ()
    assert [completion.request_id for completion in backend.step()] == [2]
