"""The dependency that a repeated batch is counted under. Alerts depend on it."""

from __future__ import annotations

import pytest

from infra.errors import RetryLater
from infra.telemetry.metrics import STREAMS_RETRIES, RetryReason
from streams.app.app import retry_until_done


async def no_pause(_: float) -> None:
    return None


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (RetryLater("the Qdrant server cannot be reached"), RetryReason.INDEX),
        (RetryLater("the embedder does not answer", reason=RetryReason.EMBEDDER), RetryReason.EMBEDDER),
    ],
)
async def test_an_error_with_a_reason_of_its_own_is_counted_under_that(error: RetryLater, counted: RetryReason) -> None:
    left = [error]

    async def attempt() -> None:
        if left:
            raise left.pop()

    name = f"retried-{counted}"
    await retry_until_done(attempt, name, RetryReason.INDEX, no_pause)
    found = {dict(labels)["reason"]: count for labels, count in STREAMS_RETRIES.values().items() if dict(labels)["processor"] == name}
    assert found == {counted: 1}
