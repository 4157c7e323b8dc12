"""Which errors of kafka-python are permanent, so that they end a worker at once. tests/contract/test_broker.py shows one of them on a broker."""

from __future__ import annotations

import pytest
from kafka import errors as kafka_errors

from infra.kafka.permanent_errors import permanent_error
from infra.kafka.refusals import WRITES
from infra.settings.stream import KafkaSettings

KAFKA = KafkaSettings()
METADATA = kafka_errors.OffsetMetadataTooLargeError()


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        ([METADATA], "OffsetMetadataTooLargeError: set workers.metadata_bytes"),
        ([kafka_errors.KafkaError(f"Unexpected error in TxnOffsetCommitResponse: {METADATA}")], "OffsetMetadataTooLargeError: set workers.metadata_bytes"),
        ([kafka_errors.KafkaError("in an error state"), kafka_errors.MessageSizeTooLargeError()], "MessageSizeTooLargeError: compare max.message.bytes"),
        ([TimeoutError(), kafka_errors.TopicAuthorizationFailedError({"drafts"})], "User:ANONYMOUS lacks WRITE on topic drafts; `retouch topics acls`"),
    ],
    ids=["offsets", "offsets in a transaction", "a record", "a right"],
)
def test_a_permanent_error_says_what_to_do(errors: list[BaseException | None], text: str) -> None:
    assert str(permanent_error(KAFKA, WRITES, *errors)).startswith(text)


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        kafka_errors.KafkaTimeoutError(),
        kafka_errors.NotEnoughReplicasError(),
        kafka_errors.UnknownTopicOrPartitionError(),
        kafka_errors.ProducerFencedError(),
        kafka_errors.CommitFailedError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_not_permanent(error: BaseException) -> None:
    assert permanent_error(KAFKA, WRITES, error, None) is None
