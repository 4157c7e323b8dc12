"""`python -m trainer.promotion`: the promoter, with the page and the operator API. One is active; with a shared registry others stand by (`trainer.run.lease`).

Exit codes: 0 stopped by a signal; 1 failed, such as if another promoter runs; 2 an invalid setting.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from pydantic import SecretStr

from infra.kafka.background_checks import check_in_background
from infra.process.lifecycle import mark_ready, run_process
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.leases import LeaseName
from trainer.interruption import Interrupted
from trainer.promotion.announcement import Announcer
from trainer.promotion.bootstrap import register_first
from trainer.promotion.discovery import promoter_path, token_path
from trainer.promotion.jobs import GateJobs
from trainer.promotion.promoter import Promoter
from trainer.promotion.service import PromoterService
from trainer.promotion.topic_feed import TopicFeed
from trainer.promotion.web import serve
from trainer.run.lease import awaited_lease


def main() -> int:
    argparse.ArgumentParser(prog="python -m trainer.promotion", description=__doc__).parse_args()
    return run_process("promoter", body)


def body(settings: Settings, stop: threading.Event) -> None:
    with suppress(Interrupted), ExitStack() as closing:
        check_lease = closing.enter_context(awaited_lease(settings, LeaseName.PROMOTER, stop))
        registry, announcer = Registry(settings, stop=stop), Announcer(settings)
        closing.callback(announcer.close)
        topics = closing.enter_context(TopicFeed(settings)) if settings.kafka.bootstrap_servers else None
        gates = closing.enter_context(GateJobs(settings, lambda: topics is not None and topics.is_current))
        promoter = Promoter(registry, settings.promotion, announce=announcer.announce, feed=topics, gates=gates, check_lease=check_lease)
        service = PromoterService(settings, promoter, lambda: register_first(settings, registry))
        if settings.kafka.bootstrap_servers:
            check_in_background(settings, "promoter", rights=True)
        page = closing.enter_context(serve(with_token(settings), service, stop))
        closing.callback(promoter_path(settings).unlink, missing_ok=True)
        write_privately(promoter_path(settings), json.dumps({"url": page.url, "pid": os.getpid()}))
        service.run(stop, lambda: mark_ready(settings))


def with_token(settings: Settings) -> Settings:
    """The settings with an operator token: their own, else the one in the state directory, which is created if missing."""
    if settings.promotion.operator_token:
        return settings
    path = token_path(settings)
    token = path.read_text().strip() if path.exists() else ""
    if not token:
        token = secrets.token_urlsafe(32)
        write_privately(path, token + "\n")
    return settings.changed(promotion={"operator_token": SecretStr(token)})


def write_privately(path: Path, text: str) -> None:
    """Write the file atomically, readable by this user alone."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
