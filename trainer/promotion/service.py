"""The promoter service: one thread runs a pass every `promotion.poll_s` and executes operator commands in between; the server's threads queue them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from infra.errors import RetryLater
from infra.settings import Settings
from schemas.promotion_view import PromotionView, VersionTransition
from trainer.promotion.operator_commands import CommandRefused, OperatorCommand
from trainer.promotion.promoter import Promoter
from trainer.promotion.view import view_of

log = logging.getLogger(__name__)

#: Maximum wait of an operator; the HTTP client waits a little longer.
WAIT_S = 12.0
#: Maximum time until a stop is noticed.
STOP_CHECK_S = 0.2


class PromoterService:
    """The `OperatorApi` of a running promoter. Its methods may be called from any thread; `run` is the thread that acts."""

    def __init__(self, settings: Settings, promoter: Promoter, establish: Callable[[], object], wait_s: float = WAIT_S) -> None:
        """`establish` makes the first champion; it is called until it succeeds."""
        self._settings, self._promoter, self._establish = settings, promoter, establish
        self._wait_s = wait_s
        self._commands: queue.Queue[tuple[OperatorCommand, Future[VersionTransition]]] = queue.Queue()
        self._was_away = False
        self.is_established = threading.Event()

    def view(self) -> PromotionView:
        if self._promoter.state is None:
            raise RetryLater("the promoter has not read the registry yet")
        return view_of(self._promoter.state, self._settings)

    def execute(self, command: OperatorCommand) -> VersionTransition:
        reply: Future[VersionTransition] = Future()
        self._commands.put((command, reply))
        try:
            return reply.result(self._wait_s)
        except FutureTimeout:
            reply.cancel()
            raise RetryLater(f"the registry did not answer within {self._wait_s:.0f} s: check the version before you try again") from None

    def run(self, stop: threading.Event, ready: Callable[[], None]) -> None:
        """Run until `stop`; calls `ready` after the first pass. Waits for a registry that is away, and logs it once.

        Raises CannotContinue if another process writes.
        """
        while not stop.is_set():
            pause_s = self._reconcile(ready)
            self._execute_commands(stop, pause_s)

    def _reconcile(self, ready: Callable[[], None]) -> float:
        """One pass; returns the seconds until the next one."""
        try:
            if not self.is_established.is_set():
                self._establish()
            has_written = self._promoter.reconcile()
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
        return 0.0 if has_written else self._settings.promotion.poll_s

    def _execute_commands(self, stop: threading.Event, pause_s: float) -> None:
        """Execute queued commands until `pause_s` is over."""
        deadline = time.monotonic() + pause_s
        while not stop.is_set():
            try:
                command, reply = self._commands.get(timeout=max(0.0, min(STOP_CHECK_S, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    return
                continue
            if reply.set_running_or_notify_cancel():
                self._reply(command, reply)

    def _reply(self, command: OperatorCommand, reply: Future[VersionTransition]) -> None:
        try:
            reply.set_result(self._promoter.execute(command))
        except (CommandRefused, RetryLater) as error:
            reply.set_exception(error)
        except Exception as error:
            reply.set_exception(error)
            raise
