"""Permanent errors of produce and commit requests: the broker returns them again until someone changes its configuration, a right or a setting."""

from __future__ import annotations

from kafka import errors as kafka_errors

_SIZES = "compare max.message.bytes of the topics with `retouch topics describe`; `retouch topics apply` raises it"
_METADATA = "set workers.metadata_bytes to the broker's offset.metadata.max.bytes or less"
_RIGHTS = "give its user the right to write the topics, to read as its group, and to use its transactional id"
_TOPICS = "compare the topics with `retouch topics describe`"
#: What to do, by the name of the error.
REMEDIES: dict[str, str] = {
    kind.__name__: remedy
    for remedy, kinds in {
        _SIZES: (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError),
        _METADATA: (kafka_errors.OffsetMetadataTooLargeError, kafka_errors.InvalidCommitOffsetSizeError),
        _RIGHTS: (
            kafka_errors.TopicAuthorizationFailedError,
            kafka_errors.GroupAuthorizationFailedError,
            kafka_errors.TransactionalIdAuthorizationFailedError,
            kafka_errors.ClusterAuthorizationFailedError,
            kafka_errors.SaslAuthenticationFailedError,
        ),
        _TOPICS: (
            kafka_errors.InvalidTopicError,
            kafka_errors.InvalidRecordError,
            kafka_errors.InvalidTimestampError,
            kafka_errors.PolicyViolationError,
            kafka_errors.UnsupportedForMessageFormatError,
        ),
    }.items()
    for kind in kinds
}


def permanent_error(*errors: BaseException | None) -> str | None:
    """Name of the error and what to do, if one of these is permanent; None otherwise.

    Compares texts: after a failed transaction kafka-python 3.0.12 raises a KafkaError whose text holds the name of the first error; aiokafka has its own
    classes of the same names, and Faust wraps them.
    """
    texts = [f"{type(error).__name__} {error}" for error in errors if error is not None]
    return next((f"{name}: {remedy}" for name, remedy in REMEDIES.items() if any(name in text for text in texts)), None)
