"""The body of a chat completion request: ours, with the parameters of the settings, without what the endpoint has refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.prompts import ChatTurn

log = logging.getLogger(__name__)

#: What replaces a field of ours that the endpoint refuses; None: the field is left out. Fields that a setting names are never changed.
REPLACED: Mapping[str, str | None] = {"max_tokens": "max_completion_tokens", "temperature": None, "response_format": None, "n": None}

#: One user turn, or the turns of a chat.
Prompt = str | Sequence[ChatTurn]


class ChatRequest:
    """Builds bodies, and stores which fields the endpoint refuses: each once, so a call is repeated at most `len(REPLACED)` times."""

    def __init__(self, model: str, parameters: Mapping[str, Any], section: str) -> None:
        self._model = model
        self._parameters = dict(parameters)
        self._section = section
        self._refused: set[str] = set()

    def body(self, prompt: Prompt, max_tokens: int, schema: dict[str, Any] | None = None, *, n: int = 1, temperature: float | None = None) -> dict[str, Any]:
        """A `temperature` that the caller gives replaces a number in the settings' parameters; null there still removes the field."""
        ours: dict[str, Any] = {"temperature": temperature or 0, "max_tokens": max_tokens}
        if n > 1:
            ours["n"] = n
        if schema is not None:
            ours["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        for name in self._refused & ours.keys():
            value = ours.pop(name)
            if replacement := REPLACED[name]:
                ours[replacement] = value
        given = {name: value for name, value in (ours | self._parameters).items() if value is not None}
        if temperature is not None and "temperature" in given:
            given["temperature"] = temperature
        turns = [ChatTurn("user", prompt)] if isinstance(prompt, str) else prompt
        return {"model": self._model, "messages": [turn._asdict() for turn in turns], **given}

    def learn(self, sent: Mapping[str, Any], param: str) -> bool:
        """Stores that the endpoint refused `param` of the body `sent`. Returns whether `body` now returns another body, so that the call should be repeated."""
        if param not in REPLACED or param not in sent or param in self._parameters:
            return False
        if param not in self._refused:
            self._refused.add(param)
            fields = {"endpoint": self._section, "parameter": param, "replaced_by": REPLACED[param]}
            log.warning("the endpoint refuses a parameter: requests go without it", extra=fields)
        return True
