from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from infra.errors import RetryLater
from infra.settings import Settings, load
from schemas.leases import LeaseName
from schemas.promotion import VersionState
from tests.support.promoter_harness import PromoterHarness
from trainer.promotion import discovery
from trainer.promotion.__main__ import with_token
from trainer.promotion.client import PromoterClient
from trainer.promotion.discovery import LocalPromoter, find_promoter, promoter_path, token_path
from trainer.promotion.operator_commands import CommandRefused, OperatorCommand
from trainer.run.lease import lease

TOKEN = "sixteen characters, or more"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(stack={"dir": tmp_path})


def test_commands_go_to_a_running_promoter_else_to_the_registry(settings: Settings) -> None:
    assert isinstance(find_promoter(settings), LocalPromoter)
    with lease(settings, LeaseName.PROMOTER):
        with pytest.raises(RetryLater, match="starting"):
            find_promoter(settings)
        promoter_path(settings).write_text(json.dumps({"url": "http://127.0.0.1:9", "pid": 1}))
        assert isinstance(find_promoter(settings), PromoterClient)
    assert isinstance(find_promoter(settings), LocalPromoter)


def test_without_a_promoter_a_rollback_rejects_the_champion_that_was_shown(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = PromoterHarness()
    for _ in range(2):
        harness.register()
        harness.inputs.figures = {"shadow": "better", "canary": "better"}
        harness.run_until_idle()
    monkeypatch.setattr(discovery, "Registry", lambda settings: harness.registry)
    at = find_promoter(settings)
    seen = at.view().champion
    assert seen == "3"
    rollback = OperatorCommand("rollback", seen, "ada", "users complain")
    assert at.execute(rollback).replaces == "3"
    with pytest.raises(CommandRefused, match="version 2 is champion now"):
        at.execute(rollback)
    assert [harness.state(name) for name in "123"] == [VersionState.RETIRED, VersionState.CHAMPION, VersionState.REJECTED]


def test_commands_go_to_the_promoter_that_the_settings_name(tmp_path: Path) -> None:
    assert isinstance(find_promoter(load(stack={"dir": tmp_path}, promotion={"url": "http://promoter:8080"})), PromoterClient)


def test_a_missing_operator_token_is_created_once_and_private(settings: Settings) -> None:
    secrets = [with_token(settings).promotion.operator_token for _ in range(2)]
    assert secrets[0] and secrets[0] == secrets[1] and len(secrets[0].get_secret_value()) >= 32
    assert stat.S_IMODE(token_path(settings).stat().st_mode) == 0o600
    configured = settings.model_copy(update={"promotion": load(promotion={"operator_token": TOKEN}).promotion})
    assert with_token(configured) is configured
