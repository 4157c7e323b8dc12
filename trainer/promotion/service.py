"""The promoter as a service: one thread looks every `promotion.poll_s` and does what operators ask in between; the page's threads only hand wishes over."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from datetime import datetime
from functools import partial
from typing import Any

from infra.errors import RetryLater
from infra.settings import Settings
from trainer.promotion import operator_commands
from trainer.promotion.operator_api import CommandRefused
from trainer.promotion.promoter import Promoter
from trainer.promotion.version_history import TransitionWrite, VersionHistories
from trainer.promotion.view import view_of

log = logging.getLogger(__name__)

#: How long an operator waits; the client gives up a little later. And how soon a stop is heeded.
WAIT_S, HEED_S = 12.0, 0.2

OperatorCommand = Callable[[VersionHistories, datetime], TransitionWrite]


class PromoterService:
    """`operations.Desk` for the threads that serve operators; `run` is the thread that acts."""

    def __init__(self, settings: Settings, promoter: Promoter, establish: Callable[[], object], wait_s: float = WAIT_S) -> None:
        """`establish` makes the first champion; it is called until it succeeds."""
        self._settings, self._promoter, self._establish = settings, promoter, establish
        self._wait_s = wait_s
        self._wishes: queue.Queue[tuple[OperatorCommand, Future[dict[str, Any]]]] = queue.Queue()
        self._was_away = False
        self.is_established = threading.Event()

    def view(self) -> dict[str, Any]:
        if self._promoter.state is None:
            raise RetryLater("the promoter has not seen the registry yet")
        return view_of(self._promoter.state, self._settings)

    def promote(self, version: str, operator: str, reason: str) -> dict[str, Any]:
        return self._ask(partial(operator_commands.promote, version=version, operator=operator, reason=reason))

    def reject(self, version: str, operator: str, reason: str) -> dict[str, Any]:
        return self._ask(partial(operator_commands.reject, version=version, operator=operator, reason=reason))

    def rollback(self, to: str | None, champion: str | None, operator: str, reason: str) -> dict[str, Any]:
        return self._ask(partial(operator_commands.rollback, to=to, champion=champion, operator=operator, reason=reason))

    def run(self, stop: threading.Event, ready: Callable[[], None]) -> None:
        """Until `stop`; calls `ready` after the first look. A registry that is away is waited for, and said once. Raises CannotContinue for a second writer."""
        while not stop.is_set():
            pause_s = self._look(ready)
            self._heed(stop, pause_s)

    def _look(self, ready: Callable[[], None]) -> float:
        """Look once; for how long nothing is to be done."""
        try:
            if not self.is_established.is_set():
                self._establish()
            took_a_step = self._promoter.reconcile()
        except RetryLater as error:
            if not self._was_away:
                log.warning("the registry is away", extra={"reason": str(error)})
            self._was_away = True
            return max(error.after_s, self._settings.promotion.poll_s)
        if self._was_away:
            log.info("the registry is back")
        self._was_away = False
        if not self.is_established.is_set():
            self.is_established.set()
            ready()
        return 0.0 if took_a_step else self._settings.promotion.poll_s

    def _heed(self, stop: threading.Event, pause_s: float) -> None:
        """Do what operators ask until `pause_s` is over."""
        deadline = time.monotonic() + pause_s
        while not stop.is_set():
            try:
                wish, answer = self._wishes.get(timeout=max(0.0, min(HEED_S, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    return
                continue
            if answer.set_running_or_notify_cancel():
                self._obey(wish, answer)

    def _obey(self, wish: OperatorCommand, answer: Future[dict[str, Any]]) -> None:
        try:
            answer.set_result(self._promoter.execute(wish))
        except (CommandRefused, RetryLater) as error:
            answer.set_exception(error)
        except Exception as error:
            answer.set_exception(error)
            raise

    def _ask(self, wish: OperatorCommand) -> dict[str, Any]:
        answer: Future[dict[str, Any]] = Future()
        self._wishes.put((wish, answer))
        try:
            return answer.result(self._wait_s)
        except Late:
            answer.cancel()
            raise RetryLater(f"the registry did not answer within {self._wait_s:.0f} s: look at the version before asking again") from None
