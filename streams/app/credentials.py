"""Faust's credentials for the broker: a TLS context, and user and password or tokens."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError
from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials

from infra.kafka.token_request import TokenAway, TokenRefused
from infra.kafka.tokens import TokenSource, token_source
from infra.settings.sasl import OAUTHBEARER
from infra.settings.stream import KafkaSettings


def credentials(kafka: KafkaSettings) -> Any:
    """None for plain text."""
    context = _tls(kafka)
    if not kafka.security_protocol.startswith("SASL"):
        return SSLCredentials(context) if context else None
    if kafka.sasl_mechanism == OAUTHBEARER:
        return OAuthCredentials(oauth_cb=FaustTokens(token_source(kafka.oauth), kafka.oauth.extensions), ssl_context=context)
    password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
    return SASLCredentials(username=kafka.sasl_username, password=password, mechanism=kafka.sasl_mechanism, ssl_context=context)


class FaustTokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is not analysed
    """The source, and the SASL extensions, as aiokafka takes them. Any error that is no error of aiokafka would end the client's task."""

    def __init__(self, source: TokenSource, extensions: Mapping[str, str]) -> None:
        self._source, self._extensions = source, dict(extensions)

    async def token(self) -> str:
        try:
            return await asyncio.to_thread(self._source.token)
        except (TokenAway, TokenRefused) as error:
            raise KafkaConnectionError(str(error)) from error

    def extensions(self) -> dict[str, str]:
        return self._extensions


def _tls(kafka: KafkaSettings) -> ssl.SSLContext | None:
    if not kafka.security_protocol.endswith("SSL"):
        return None
    context = ssl.create_default_context(cafile=kafka.ssl_cafile)
    if kafka.ssl_certfile:
        context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile, kafka.key_password)
    return context
