"""The text for a right that the broker refuses, from the errors of both clients."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiokafka import errors as aiokafka_errors
from faust.exceptions import ProducerSendError
from kafka import errors as kafka_errors

from infra.kafka.refusals import Use, lacks, refusal
from infra.kafka.rights import Operation, Resource, Right
from infra.settings.stream import KafkaSettings

KAFKA = KafkaSettings(bootstrap_servers="kafka:9092", security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", sasl_username="ada", sasl_password="secret")
USE = Use(Operation.WRITE, group="team.retouch-base", transactional_id="team.retouch-base-pod")
WRAPPED = "Unexpected error in InitProducerIdResponse: [Error 31] ClusterAuthorizationFailedError"


@pytest.mark.parametrize(
    ("error", "missing"),
    [
        (kafka_errors.TopicAuthorizationFailedError({"team.drafts", "b"}), "WRITE on topics b, team.drafts"),
        (kafka_errors.TopicAuthorizationFailedError("team.drafts"), "WRITE on topic team.drafts"),
        (kafka_errors.TopicAuthorizationFailedError(), "WRITE on topic (not named)"),
        (kafka_errors.KafkaError(f"in an error state: {kafka_errors.TopicAuthorizationFailedError({'a', 'b'})}"), "WRITE on topics a, b"),
        (aiokafka_errors.TopicAuthorizationFailedError({"team.drafts"}), "WRITE on topic team.drafts"),
        (ProducerSendError(f"Error while sending: {aiokafka_errors.TopicAuthorizationFailedError('team.drafts')!r}"), "WRITE on topic team.drafts"),
        (kafka_errors.GroupAuthorizationFailedError("FindCoordinatorResponse error for GROUP/x: "), "READ on group team.retouch-base"),
        (aiokafka_errors.GroupAuthorizationFailedError("team.retouch-base"), "READ on group team.retouch-base"),
        (kafka_errors.TransactionalIdAuthorizationFailedError(), "WRITE on transactional id team.retouch-base-pod"),
        (kafka_errors.KafkaError(WRAPPED), "WRITE on its topics, or before Kafka 2.8 IDEMPOTENT_WRITE on the cluster"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_refusal_names_user_right_and_remedy(error: BaseException, missing: str) -> None:
    assert refusal(KAFKA, USE, None, error) == f"User:ada lacks {missing}; `retouch topics acls` prints the rights that each process needs"


@pytest.mark.parametrize("error", [TimeoutError(), kafka_errors.UnknownTopicOrPartitionError(), kafka_errors.SaslAuthenticationFailedError("no")])
def test_other_errors_are_no_refusal(error: BaseException) -> None:
    assert refusal(KAFKA, USE, error, None) is None


def test_missing_rights_are_grouped_by_operation() -> None:
    rights = [Right(Resource.TOPIC, name, operation) for name in ("b", "a") for operation in (Operation.WRITE, Operation.READ)]
    text = lacks(KAFKA, [Right(Resource.GROUP, "g", Operation.READ), *rights, Right(Resource.TRANSACTIONAL_ID, "t-", Operation.WRITE, is_prefix=True)])
    assert text.startswith("User:ada lacks READ on group g and READ on topics a, b and WRITE on topics a, b and WRITE on transactional id t-*; `retouch")


def test_the_user_is_named_as_far_as_the_settings_say_it() -> None:
    right = Right(Resource.GROUP, "retouch-base", Operation.READ)
    assert lacks(KafkaSettings(), [right]).startswith("User:ANONYMOUS lacks READ on group retouch-base;")
    certificate = KafkaSettings.model_construct(ssl_certfile=Path("client.pem"), sasl_mechanism=None)
    assert lacks(certificate, [right]).startswith("the user of the certificate client.pem lacks READ on group retouch-base;")
