"""Requests an access token with client credentials (RFC 6749, section 4.4): one POST, the client in HTTP Basic.

By hand: no OAuth library is a dependency, and this grant is one request.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from typing import Any
from urllib.parse import quote_plus

import httpx

from infra.http_exchange import exchange
from infra.settings.sasl import OAuthSettings
from infra.urls import is_loopback

#: For the whole request: connecting, the answer's headers and its body.
REQUEST_S = 4.0
MAX_ANSWER_BYTES = 1 << 20
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")  # RFC 6749, section 5.2; other texts could repeat a secret


class TokenRefused(Exception):
    """The token endpoint refuses, or is no token endpoint: a setting or an account must change."""


class TokenAway(Exception):
    """The token endpoint gives no answer, or none for now."""


def request_token(oauth: OAuthSettings) -> tuple[str, float | None]:
    """The token, and its lifetime in seconds, if the endpoint names one. Blocks for REQUEST_S at most, besides the resolution of the host's name."""
    assert oauth.token_url and oauth.client_id and oauth.client_secret
    at = f"the token endpoint {oauth.token_url}"
    client = httpx.BasicAuth(quote_plus(oauth.client_id), quote_plus(oauth.client_secret.get_secret_value()))  # section 2.3.1
    form = {"grant_type": "client_credentials", **({"scope": oauth.scope} if oauth.scope else {})}
    try:
        context = ssl.create_default_context(cafile=oauth.cafile)
        session = httpx.AsyncClient(verify=context, timeout=None, trust_env=not is_loopback(oauth.token_url))  # noqa: S113  # `exchange` has one
        status, body = asyncio.run(exchange(session, "POST", oauth.token_url, within_s=REQUEST_S, max_bytes=MAX_ANSWER_BYTES, data=form, auth=client))
    except httpx.HTTPError as error:
        if verification := _verification_error(error):
            remedy = "set kafka.oauth.cafile to the CA that signed it, and name its host in kafka.oauth.token_url"
            raise TokenRefused(f"{at} has a certificate that is not trusted ({verification.verify_message}): {remedy}") from None
        raise TokenAway(f"{at} cannot be reached ({type(error).__name__}): is it up, and is kafka.oauth.token_url right?") from None
    except TimeoutError:
        raise TokenAway(f"{at} did not finish its answer within {REQUEST_S:g} s: is it up, and is kafka.oauth.token_url right?") from None
    return _token(at, oauth, status, body)


def _token(at: str, oauth: OAuthSettings, status: int, body: bytes) -> tuple[str, float | None]:
    answer = _object(body)
    if status >= 500 or status in (408, 429):
        raise TokenAway(f"{at} answers {status}: it is overloaded or fails")
    if status != 200:
        code = answer.get("error")
        named = f" {code}" if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else ""
        raise TokenRefused(f"{at} answers {status}{named}: {_remedy(oauth, status, named.strip())}")
    token, lifetime = answer.get("access_token"), answer.get("expires_in")
    if not isinstance(token, str) or not token:
        raise TokenRefused(f"{at} answers without an access_token: set kafka.oauth.token_url to the URL that takes the grant client_credentials")
    try:
        return token, None if lifetime is None else float(lifetime)
    except (TypeError, ValueError):
        return token, None


def _remedy(oauth: OAuthSettings, status: int, code: str) -> str:
    if code == "invalid_scope":
        return f"kafka.oauth.scope={oauth.scope or ''} must be one that it gives to client {oauth.client_id}"
    if code in ("unauthorized_client", "unsupported_grant_type"):
        return f"allow the grant client_credentials for client {oauth.client_id} there"
    if code == "invalid_client" or status in (401, 403):
        return f"kafka.oauth.client_id={oauth.client_id} and kafka.oauth.client_secret must be those of a client there"
    return "is kafka.oauth.token_url right?"


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _verification_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error
