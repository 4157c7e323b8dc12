"""Finds the promoter that executes operator commands: a running process over HTTP, or one in this process if none runs."""

from __future__ import annotations

import json

from infra.errors import RetryLater
from infra.process.file_lock import is_locked
from infra.settings import Settings
from trainer.promotion.client import PromoterClient
from trainer.promotion.local import LocalPromoter
from trainer.promotion.operator_api import OperatorApi, promoter_path, token_path
from trainer.run.lease import promoter_lease_path


def find_promoter(settings: Settings) -> OperatorApi:
    """The promoter at `promotion.url`, else the one that runs in the state directory, else a `LocalPromoter`.

    Raises RetryLater if a promoter holds the lease and has not written its address yet.
    """
    if settings.promotion.url:
        return PromoterClient(settings.promotion.url, _token(settings))
    if not is_locked(promoter_lease_path(settings)):
        return LocalPromoter(settings)
    try:
        url = json.loads(promoter_path(settings).read_text())["url"]
    except (OSError, ValueError, KeyError) as error:
        raise RetryLater("a promoter is starting, or a command is running; try again in a few seconds") from error
    return PromoterClient(url, _token(settings))


def _token(settings: Settings) -> str | None:
    if settings.promotion.operator_token:
        return settings.promotion.operator_token.get_secret_value()
    try:
        return token_path(settings).read_text().strip()
    except OSError:
        return None
