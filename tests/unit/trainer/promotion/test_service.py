"""The promoter service over a registry in memory: commands from other threads, and a registry that is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.errors import CannotContinue, RetryLater
from infra.registry.client import RegisteredVersion
from infra.settings import load
from lab.promotion.scripted_inputs import PROMOTION, ScriptedInputs
from schemas.model_events import Alias
from schemas.promotion import Transition, VersionState
from tests.support.memory_registry import MemoryRegistry
from trainer.promotion.operator_commands import CommandRefused, OperatorCommand
from trainer.promotion.promoter import Promoter
from trainer.promotion.service import PromoterService

WITHIN_S = 20.0


class FailingRegistry(MemoryRegistry):
    """Raises `trouble` at every read and write; version 1 is adopted as champion."""

    trouble: Exception | None = None

    def versions(self) -> list[RegisteredVersion]:
        if self.trouble:
            raise self.trouble
        return super().versions()

    def record(self, version: str, transition: Transition) -> None:
        if self.trouble:
            raise self.trouble
        super().record(version, transition)


@pytest.fixture
def registry() -> FailingRegistry:
    result = FailingRegistry()
    result.register()
    result.aliases[Alias.CHAMPION] = "1"
    return result


@contextmanager
def serving(registry: FailingRegistry, tmp_path: Path) -> Iterator[tuple[PromoterService, list[BaseException]]]:
    promoter = Promoter(registry, PROMOTION, feed=ScriptedInputs(), gates=ScriptedInputs(), announce=lambda event: None)
    service = PromoterService(load(stack={"dir": tmp_path}, promotion={"poll_s": 0.02}), promoter, lambda: None)
    stop, ready = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            service.run(stop, ready.set)
        except CannotContinue as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert registry.trouble or ready.wait(WITHIN_S)
        yield service, failed
    finally:
        stop.set()
        thread.join(WITHIN_S)
        assert not thread.is_alive()


def until(holds: object) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not (callable(holds) and holds()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_commands_of_other_threads_are_executed_and_shown_at_once(registry: FailingRegistry, tmp_path: Path) -> None:
    with serving(registry, tmp_path) as (service, _):
        registry.register()
        reply = service.execute(OperatorCommand("reject", "2", "ada", "not needed"))
        assert (reply.version, reply.after, reply.actor) == ("2", "rejected", "ada")
        view = service.view()
        assert (view.champion, view.versions[1].state) == ("1", VersionState.REJECTED)
        with pytest.raises(CommandRefused, match="rejected already"):
            service.execute(OperatorCommand("reject", "2", "ada", "again"))


def test_the_service_waits_for_the_registry_and_commands_fail_meanwhile(registry: FailingRegistry, tmp_path: Path) -> None:
    registry.trouble = RetryLater("the registry is away", after_s=0.02)
    with serving(registry, tmp_path) as (service, _):
        with pytest.raises(RetryLater, match="not read the registry yet"):
            service.view()
        with pytest.raises(RetryLater, match="the registry is away"):
            service.execute(OperatorCommand("rollback", "1", "ada", "users complain"))
        registry.trouble = None
        until(service.is_established.is_set)
        assert service.view().champion == "1"


def test_a_second_writer_ends_the_service(registry: FailingRegistry, tmp_path: Path) -> None:
    with serving(registry, tmp_path) as (_, failed):
        registry.trouble = CannotContinue("only one promoter may run")
        until(lambda: failed)
        assert "only one promoter" in str(failed[0])


def test_a_command_that_timed_out_is_not_executed_later(registry: FailingRegistry, tmp_path: Path) -> None:
    promoter = Promoter(registry, PROMOTION, feed=ScriptedInputs(), gates=ScriptedInputs(), announce=lambda event: None)
    service = PromoterService(load(stack={"dir": tmp_path}, promotion={"poll_s": 0.02}), promoter, lambda: None, wait_s=0.05)
    with pytest.raises(RetryLater, match="did not answer within"):
        service.execute(OperatorCommand("reject", "1", "ada", "x"))
    ((_, reply),) = list(service._commands.queue)
    assert reply.cancelled() and not reply.set_running_or_notify_cancel()
