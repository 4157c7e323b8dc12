"""Functions for `kafka.oauth.token_provider`, with the arguments and results of MSK IAM's signer (`aws_msk_iam_sasl_signer.MSKAuthTokenProvider`)."""

from __future__ import annotations

import time
from typing import Any

from tests.support.token_endpoint import CLIENT, unsigned_jwt

LIFETIME_S = 900
REGION = "eu-central-1"


def signed(region: str, aws_debug_creds: bool = False) -> tuple[str, int]:
    """A token, and the Unix time in ms at which it ends."""
    assert region == REGION and not aws_debug_creds
    return unsigned_jwt(LIFETIME_S, CLIENT), int((time.time() + LIFETIME_S) * 1000)


def plain() -> str:
    return unsigned_jwt(LIFETIME_S)


def failing() -> str:
    raise LookupError("no credentials, and a secret in the text")


def nothing() -> Any:
    return None
