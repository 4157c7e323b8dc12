"""The base model behind its OpenAI-compatible endpoint, as an `Ask`: the client of the workers, for callers that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from infra.endpoints.base_endpoint import base_endpoint
from infra.endpoints.client import PromptRefused
from infra.errors import BadSetting, DependencyBlocked, RetryLater
from infra.settings import Settings
from schemas.drafts import FailureCause
from schemas.prompts import ChatTurn
from trainer.interruption import check_stop

T = TypeVar("T")

#: Pause before the first repeated call; each later one is twice as long, up to the longest.
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
#: The model answered without a text. That is a wrong answer, not a refused prompt.
_NO_TEXT = frozenset({FailureCause.NO_TEXT, FailureCause.ONLY_REASONING})


class BaseModel:
    """Use as a context manager. The endpoint's client runs on an event loop in a thread. Thread-safe; every wait has a bound.

    `base.parameters` are merged into each request as the workers do it, but temperature and n are the caller's.
    """

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        """Raises BadSetting without `base.url`."""
        self._endpoint = base_endpoint(settings, on_blocked=lambda reason: None)
        self._base, self._stop = settings.base, stop
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="base model", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait_for(self._endpoint.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._wait_for(self._endpoint.__aexit__(kind, error, trace))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __call__(self, turns: Sequence[ChatTurn], n: int, temperature: float, max_tokens: int) -> Sequence[str]:
        """One to `n` texts, without white space around them; an empty one if the model wrote none; none at all for a refused prompt.

        Raises RetryLater after `base.attempts` failed calls, BadSetting if the endpoint refuses every prompt, Interrupted on a stop.
        """
        failure, pause_s = "", 0.0
        for attempt in range(self._base.attempts):
            self._stop.wait(pause_s)
            check_stop(self._stop)
            try:
                answer = self._wait_for(self._endpoint.complete(tuple(turns), max_tokens=max_tokens, n=n, temperature=temperature))
            except PromptRefused as error:
                return ("",) if error.cause in _NO_TEXT else ()
            except DependencyBlocked as error:
                raise BadSetting(str(error)) from error
            except RetryLater as error:
                failure, pause_s = str(error), min(LONGEST_PAUSE_S, max(error.after_s, PAUSE_S * 2**attempt))
            else:
                return [text.strip() for text in answer.texts]
        raise RetryLater(f"the base model gave no answer in {self._base.attempts} attempts: {failure}")

    def _wait_for(self, call: Coroutine[Any, Any, T]) -> T:
        """Blocks. The client bounds each request by `base.timeout_s`."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()
