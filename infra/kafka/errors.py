"""Turns errors of Kafka requests into ours, in one place.

UnreadableBatch, for a batch that cannot be decoded (`infra.kafka.batches`), goes through unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from kafka.errors import KafkaError

from infra.errors import CannotContinue, RetouchError, RetryLater
from infra.kafka.connection_failures import AccessRefused, BrokerAway
from infra.kafka.names import KafkaNames
from infra.kafka.refusals import READS, Use, refusal
from infra.kafka.sources_file import source_topics
from infra.settings import Settings


@contextmanager
def broker_errors(
    settings: Settings, error: Callable[[str], RetouchError] = RetryLater, action: str = "execute the request", use: Use = READS
) -> Iterator[None]:
    """Raises `error` for every error of the Kafka client inside. The text names the broker's address, the failed `action`, and what to check.

    `use` names what the requests use, for the text of a missing right. AccessRefused goes through: no retry helps.
    """
    try:
        yield
    except AccessRefused:
        raise
    except BrokerAway as cause:
        raise error(str(cause)) from cause
    except KafkaError as cause:
        address, kind = settings.bootstrap_servers(), type(cause).__name__
        if missing := refusal(settings.kafka, use, cause):
            raise error(f"the broker at {address} refuses to {action}: {missing}") from cause
        raise error(f"the broker at {address} did not {action} ({kind}): is it up, and is the address right?") from cause


def missing_topics(settings: Settings, topics: Iterable[str]) -> CannotContinue:
    """The error of a process whose topics do not exist, by the broker's names. All are declared ones, or all of `sources.toml`."""
    missing, of_platform = list(topics), source_topics(settings)
    is_of_platform = set(missing) <= set(of_platform)
    remedy = f"the platform creates them, or {settings.sources.file} is wrong" if is_of_platform else "create them with `retouch topics apply`"
    names = ", ".join(map(KafkaNames.of(settings).topic, missing))
    return CannotContinue(f"the broker at {settings.bootstrap_servers()} lacks topics {names}: {remedy}")
