"""Permanent errors of produce and commit requests: the broker returns them again until someone changes its configuration, a right or a setting."""

from __future__ import annotations

from kafka import errors as kafka_errors

from infra.kafka.refusals import Use, refusal
from infra.settings.stream import KafkaSettings

_SIZES = "compare max.message.bytes of the topics with `retouch topics describe`; `retouch topics apply` raises it"
_METADATA = "set workers.metadata_bytes to the broker's offset.metadata.max.bytes or less"
_USER = "check its user and password, or its certificate"
_TOPICS = "compare the topics with `retouch topics describe`"
#: What to do, by the name of the error.
REMEDIES: dict[str, str] = {
    kind.__name__: remedy
    for remedy, kinds in {
        _SIZES: (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError),
        _METADATA: (kafka_errors.OffsetMetadataTooLargeError, kafka_errors.InvalidCommitOffsetSizeError),
        _USER: (kafka_errors.SaslAuthenticationFailedError,),
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


def permanent_error(kafka: KafkaSettings, use: Use, *errors: BaseException | None) -> str | None:
    """What to do, with the name of the error or the missing right, if one of these is permanent; None otherwise. `use`: what the requests use.

    Compares texts: after a failed transaction kafka-python 3.0.12 raises a KafkaError whose text holds the name of the first error; aiokafka has its own
    classes of the same names, and Faust wraps them.
    """
    if missing := refusal(kafka, use, *errors):
        return missing
    texts = [f"{type(error).__name__} {error}" for error in errors if error is not None]
    return next((f"{name}: {remedy}" for name, remedy in REMEDIES.items() if any(name in text for text in texts)), None)
