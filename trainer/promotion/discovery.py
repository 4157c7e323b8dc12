"""Finds the promoter that executes operator commands: a running process over HTTP, or one in this process if none runs."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from infra.errors import RetryLater
from infra.process.file_lock import LockHeld, is_locked
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.leases import LeaseName
from schemas.promotion_view import PromotionView, VersionTransition
from trainer.promotion.announcement import Announcer
from trainer.promotion.client import PromoterClient
from trainer.promotion.operator_commands import OperatorApi, OperatorCommand
from trainer.promotion.promoter import Promoter, PromoterState
from trainer.promotion.version_history import VersionHistories
from trainer.promotion.view import view_of
from trainer.run.lease import lease, lease_path


class LocalPromoter:
    """An `OperatorApi` without a running promoter: each command takes the lease, writes, and announces the transition if a broker answers.

    Holds no state between calls. Raises LockHeld if a promoter, or another command, starts at the same moment.
    """

    def __init__(self, settings: Settings, name: LeaseName = LeaseName.PROMOTER) -> None:
        """`name`: the lease of these versions."""
        self._settings = settings
        self._name = name
        self._registry = Registry(settings)

    def view(self) -> PromotionView:
        """The view without figures of answers, which only a running promoter reads."""
        return view_of(PromoterState(VersionHistories.of(self._registry.versions())), self._settings)

    def execute(self, command: OperatorCommand) -> VersionTransition:
        try:
            with lease(self._settings, self._name) as check, closing(Announcer(self._settings)) as announcer:
                promoter = Promoter(self._registry, self._settings.promotion, announce=announcer.announce, check_lease=check)
                return promoter.execute(command)
        except LockHeld as error:
            raise LockHeld(f"{error}; or send it the command: set promotion.url to its address and promotion.operator_token to its token") from error


def hydra_promoter(settings: Settings) -> LocalPromoter:
    """For versions of HYDRA, which no process promotes (`trainer.promotion.hydra`)."""
    return LocalPromoter(settings.changed(registry={"model_name": settings.hydra.model_name}), LeaseName.HYDRA)


def find_promoter(settings: Settings) -> OperatorApi:
    """The promoter at `promotion.url`, else the one that runs in the state directory, else a `LocalPromoter`.

    Raises RetryLater if a promoter holds the lease and has not written its address yet.
    """
    if settings.promotion.url:
        return PromoterClient(settings.promotion.url, _token(settings))
    if not is_locked(lease_path(settings, LeaseName.PROMOTER)):
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


def promoter_path(settings: Settings) -> Path:
    """File with the address of a running promoter: {"url", "pid"}."""
    return settings.stack.dir / "promoter.json"


def token_path(settings: Settings) -> Path:
    """The operator token that a promoter creates if the settings have none; only its user can read it."""
    return settings.stack.dir / "operator-token"
