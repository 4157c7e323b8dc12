"""Which errors of kafka-python end a worker at once. tests/contract/test_broker.py shows one of them on a broker."""

from __future__ import annotations

import pytest
from kafka import errors as kafka_errors

from infra.kafka.refusals import lasting_refusal

METADATA = kafka_errors.OffsetMetadataTooLargeError()


@pytest.mark.parametrize(
    ("errors", "refusal"),
    [
        ([METADATA], "OffsetMetadataTooLargeError: set workers.metadata_bytes"),
        ([kafka_errors.KafkaError(f"Unexpected error in TxnOffsetCommitResponse: {METADATA}")], "OffsetMetadataTooLargeError: set workers.metadata_bytes"),
        ([kafka_errors.KafkaError("in an error state"), kafka_errors.MessageSizeTooLargeError()], "MessageSizeTooLargeError: compare max.message.bytes"),
        ([TimeoutError(), kafka_errors.TopicAuthorizationFailedError({"drafts"})], "TopicAuthorizationFailedError: give its user the right"),
    ],
    ids=["offsets", "offsets in a transaction", "a record", "a right"],
)
def test_a_refusal_that_stays_says_what_to_do(errors: list[BaseException | None], refusal: str) -> None:
    assert str(lasting_refusal(*errors)).startswith(refusal)


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
def test_other_errors_are_tried_again(error: BaseException) -> None:
    assert lasting_refusal(error, None) is None
