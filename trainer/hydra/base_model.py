"""The base model behind its OpenAI-compatible endpoint, as an `Ask`. Blocking and thread-safe; every wait has a bound."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from infra.errors import BadSetting, RetryLater
from infra.settings.models import BaseModelSettings
from infra.urls import is_loopback, without_user
from schemas.messages import MAX_TEXT_CHARS
from schemas.prompts import ChatTurn
from trainer.interruption import check_stop

#: Pause before the first repeated call; each later one is twice as long, up to the longest.
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
#: The endpoint refuses this prompt: too long, filtered, malformed. Another one may be answered.
_PROMPT_REFUSED = frozenset({400, 413, 422})
#: The endpoint refuses every prompt until a setting changes.
_SETTINGS_REFUSED = {401: "base.api_key", 403: "base.api_key", 404: "base.url and base.model"}


class BaseModel:
    """Use as a context manager. `base.parameters` are merged into each request, as the base workers do, but temperature and n are HYDRA's.

    A null removes a field, the temperature too.
    """

    def __init__(self, settings: BaseModelSettings, stop: threading.Event) -> None:
        if not settings.url:
            raise BadSetting("base.url is not set: HYDRA asks the base model; set OPENAI_BASE_URL=http://HOST:PORT/v1")
        self._settings, self._stop = settings, stop
        self._url = settings.url.rstrip("/") + "/chat/completions"
        self._one_by_one = False  # the endpoint gives one answer per call
        headers = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
        limits = httpx.Limits(max_connections=settings.concurrency)
        self._client = httpx.Client(headers=headers, timeout=settings.timeout_s, limits=limits, trust_env=not is_loopback(self._url))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.close()

    def __call__(self, turns: Sequence[ChatTurn], n: int, temperature: float) -> Sequence[str]:
        """Raises RetryLater after `base.attempts` failed calls, BadSetting if the endpoint refuses key, URL or model, Interrupted on a stop.

        Asks again for answers that are missing, because some endpoints give one at a time whatever `n` says.
        """
        answers: list[str] = []
        while len(answers) < n:
            wanted = 1 if self._one_by_one else n - len(answers)
            found = self._answers(turns, wanted, temperature)
            if found is None and wanted > 1:  # it may refuse `n`, not the prompt
                found = self._answers(turns, 1, temperature)
                self._one_by_one = found is not None
            if not found:
                return ()
            answers += found[: n - len(answers)]
        return answers

    def _answers(self, turns: Sequence[ChatTurn], n: int, temperature: float) -> list[str] | None:
        """One request, repeated while it fails. None if the endpoint refuses it."""
        ours: dict[str, Any] = {"temperature": temperature, "max_tokens": self._settings.max_new_tokens} | ({"n": n} if n > 1 else {})
        if self._settings.parameters.get("temperature", temperature) is None:  # the model takes none
            del ours["temperature"]
        given = {name: value for name, value in (self._settings.parameters | ours).items() if value is not None}
        body = {"model": self._settings.model, "messages": [turn._asdict() for turn in turns], **given}
        failure = ""
        for attempt in range(self._settings.attempts):
            if attempt:
                self._stop.wait(min(LONGEST_PAUSE_S, PAUSE_S * 2 ** (attempt - 1)))
            check_stop(self._stop)
            try:
                response = self._client.post(self._url, json=body)
            except httpx.TransportError as error:
                failure = type(error).__name__
                continue
            if response.status_code in _PROMPT_REFUSED:
                return None
            if remedy := _SETTINGS_REFUSED.get(response.status_code):
                raise BadSetting(f"check {remedy}: {without_user(self._url)} answers with status {response.status_code}")
            answers = _texts(response) if response.is_success else []
            if answers:
                return answers
            failure = f"status {response.status_code}"
        raise RetryLater(f"the base model gave no answer in {self._settings.attempts} attempts: {failure}")


def _texts(response: httpx.Response) -> list[str]:
    """The texts of all choices, without white space around them. A choice without a text is empty. None of them if the body is no completion."""
    try:
        choices = response.json()["choices"]
        texts = [choice["message"].get("content") for choice in choices]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return [text.strip()[:MAX_TEXT_CHARS] if isinstance(text, str) else "" for text in texts]
