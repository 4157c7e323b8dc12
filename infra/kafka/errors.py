"""Turns errors of Kafka requests into ours, in one place.

UnreadableBatch, for a batch that cannot be decoded (`infra.kafka.batches`), goes through unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kafka.errors import KafkaError

from infra.errors import RetouchError, RetryLater
from infra.settings import Settings


@contextmanager
def broker_errors(settings: Settings, error: Callable[[str], RetouchError] = RetryLater, action: str = "execute the request") -> Iterator[None]:
    """Raises `error` for every error of the Kafka client inside. The text names the broker's address, the failed `action`, and what to check."""
    try:
        yield
    except KafkaError as cause:
        address = settings.bootstrap_servers()
        raise error(f"the broker at {address} did not {action} ({type(cause).__name__}): is it up, and is the address right?") from cause
