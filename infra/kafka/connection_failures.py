"""Why a connection to the broker failed: as a refusal, which someone must correct, or as an absence, which may end by itself. Each with what would be right."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from enum import Enum

from kafka.errors import (
    AuthorizationError,
    IllegalSaslStateError,
    KafkaError,
    KafkaTimeoutError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)

from infra.errors import CannotContinue, RetryLater
from infra.kafka.token_request import TokenAway, TokenRefused
from infra.settings.sasl import OAUTHBEARER
from infra.settings.stream import KafkaSettings


class AccessRefused(CannotContinue, KafkaError):  # type: ignore[misc]  # the client has no types
    """The broker, or the token endpoint, refuses this client until a setting, an account or a certificate changes."""

    __str__ = Exception.__str__
    __hash__ = Exception.__hash__


class BrokerAway(RetryLater, KafkaTimeoutError):  # type: ignore[misc]
    """No broker, or no token endpoint, could be reached in time."""

    __str__ = Exception.__str__
    __hash__ = Exception.__hash__


class Stage(Enum):
    """How far a failed connection came."""

    CONNECTING = "connecting"  # TCP, then TLS
    FIRST_ANSWER = "first answer"  # the first request is sent
    LOGIN = "login"  # the broker has answered, and SASL follows
    REQUESTS = "requests"  # the connection is made, and no metadata has come yet


@dataclass(frozen=True)
class Failure:
    """`text` is one line: what is wrong, where, and what would be right. A refusal is certain if the broker's answer or its certificate shows it. If the
    broker only closes the connection, it may just be stopping. A failure is silent if time ran out: that may be the client's own bound, during any attempt."""

    text: str
    is_refusal: bool
    is_certain: bool = True
    is_silent: bool = False


def failure(error: BaseException, address: str, stage: Stage, kafka: KafkaSettings) -> Failure:
    """What the failed connection to `address` means under these settings."""
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, TokenRefused | TokenAway):
            return Failure(str(cause), isinstance(cause, TokenRefused))
    if any(isinstance(cause, KafkaTimeoutError | RequestTimedOutError) for cause in causes):
        return Failure(_silent(address, stage, kafka), is_refusal=False, is_silent=True)
    if text := next(filter(None, (_certificate(cause, address, kafka) for cause in causes)), None) or _login(error, address, kafka):
        return Failure(text, is_refusal=True)
    if any(isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError) for cause in causes):
        return Failure(f"the broker at {address} does not speak TLS as {_protocol(kafka)} expects ({_reason(causes)}): {_PORT}", is_refusal=True)
    return _closed(error, address, stage, kafka)


_PORT = "name the port of that listener in kafka.bootstrap_servers, or set kafka.security_protocol to the port's"
_BROKER_REFUSES = re.compile("alert|CERTIFICATE_REQUIRED|certificate required", re.IGNORECASE)


def _certificate(cause: BaseException, address: str, kafka: KafkaSettings) -> str | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = cause.verify_message.rstrip(".")
        if "mismatch" in why or "not valid for" in why:
            return f"the certificate of the broker at {address} is for another host ({why}): use a host of the certificate in kafka.bootstrap_servers"
        if "expired" in why or "not yet valid" in why:
            return f"the certificate of the broker at {address} is not valid now ({why}): renew it, or correct this machine's clock"
        trusted = f"kafka.ssl_cafile={kafka.ssl_cafile}" if kafka.ssl_cafile else "a CA of this system"
        return f"the certificate of the broker at {address} is not signed by {trusted} ({why}): set kafka.ssl_cafile to the CA that signed it"
    if isinstance(cause, ssl.SSLError) and _BROKER_REFUSES.search(str(cause)):
        reason = (cause.reason or "TLS alert").lower().replace("_", " ")
        return f"the broker at {address} refuses {_own_certificate(kafka)} ({reason}): {_OTHER_CERTIFICATE}"
    return None


_OTHER_CERTIFICATE = "set kafka.ssl_certfile and kafka.ssl_keyfile to a certificate that the broker's CA for clients signed"


def _own_certificate(kafka: KafkaSettings) -> str:
    return f"kafka.ssl_certfile={kafka.ssl_certfile}" if kafka.ssl_certfile else "a client without a certificate"


def _login(error: BaseException, address: str, kafka: KafkaSettings) -> str | None:
    mechanism = kafka.sasl_mechanism
    if isinstance(error, UnsupportedSaslMechanismError | IllegalSaslStateError):
        return f"the broker at {address} does not take kafka.sasl_mechanism={mechanism}: set the mechanism and the port that the platform names"
    if isinstance(error, AuthorizationError):
        return f"the broker at {address} gives this client no access ({type(error).__name__}): ask for the right"
    return _refused_login(address, kafka) if isinstance(error, SaslAuthenticationFailedError) else None


def _refused_login(address: str, kafka: KafkaSettings) -> str:
    if kafka.sasl_mechanism == OAUTHBEARER:
        provider = f"kafka.oauth.token_provider={kafka.oauth.token_provider}"
        source = f"{kafka.oauth.token_url} (client {kafka.oauth.client_id}, scope {kafka.oauth.scope})" if kafka.oauth.token_url else provider
        parts = f"{'kafka.oauth.extensions, ' if kafka.oauth.extensions else ''}issuer, audience, scope and lifetime"
        return f"the broker at {address} refuses the token of {source}: compare {parts} with what the broker expects"
    user = f"kafka.sasl_username={kafka.sasl_username}"
    return f"the broker at {address} refuses {user} with kafka.sasl_password: set the password of that user, who must exist for {kafka.sasl_mechanism}"


def _silent(address: str, stage: Stage, kafka: KafkaSettings) -> str:
    if stage is Stage.CONNECTING:
        return f"{address} gives no answer: is the address right, does a firewall drop it, and does that port speak {_protocol(kafka)}?"
    return f"{address} takes the connection and gives no answer: is it a Kafka broker that works, and does that port speak {_protocol(kafka)}?"


def _closed(error: BaseException, address: str, stage: Stage, kafka: KafkaSettings) -> Failure:
    if stage is Stage.LOGIN and kafka.security_protocol.startswith("SASL"):
        return Failure(f"{_refused_login(address, kafka)} (it closed the connection during the login)", is_refusal=True, is_certain=False)
    if stage is Stage.FIRST_ANSWER and kafka.security_protocol.endswith("SSL"):  # TLS is done, so a broker is there
        text = f"the broker at {address} closes connections of {_own_certificate(kafka)} after TLS: {_OTHER_CERTIFICATE}, or {_PORT}"
        return Failure(text, is_refusal=True, is_certain=False)
    if stage is Stage.REQUESTS:
        text = f"the broker at {address} closes connections of {_protocol(kafka)} at their first request; does it expect a login? {_PORT[0].upper()}{_PORT[1:]}"
        return Failure(text, is_refusal=True, is_certain=False)
    if stage is Stage.FIRST_ANSWER or "EOF" in str(error) or "reset" in str(error).lower():
        text = f"{address} closes the connection before it answers: is the broker up, and does that port speak {_protocol(kafka)}?"
        return Failure(text, is_refusal=False)
    innermost = _chain(error)[-1]
    text = str(innermost).removeprefix(f"{type(innermost).__name__}: ")
    if "DNS" in text:
        return Failure(unknown_name(address), is_refusal=False)
    return Failure(f"nothing is reached at {address} ({text}): are broker and network up, and is kafka.bootstrap_servers right?", is_refusal=False)


def unknown_name(address: str) -> str:
    return f"the host of {address} is unknown (DNS): is the network up, and is kafka.bootstrap_servers right?"


def _protocol(kafka: KafkaSettings) -> str:
    return f"kafka.security_protocol={kafka.security_protocol}"


def _reason(causes: list[BaseException]) -> str:
    first = next(cause for cause in causes if isinstance(cause, ssl.SSLError))
    return (first.reason or type(first).__name__).lower().replace("_", " ")


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and what caused it, also where kafka-python passes the cause as an argument."""
    found: list[BaseException] = []
    while error is not None and not any(error is each for each in found):
        found.append(error)
        nested = next((argument for argument in error.args if isinstance(argument, BaseException)), None)
        error = nested or error.__cause__ or error.__context__
    return found
