"""The body of a chat completion request: ours, with the parameters of the settings, without what the endpoint has refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

#: What replaces a field of ours that the endpoint refuses; None: the field is left out. Fields that a setting names are never changed.
REPLACED: Mapping[str, str | None] = {"max_tokens": "max_completion_tokens", "temperature": None, "response_format": None}


class ChatRequest:
    """Builds bodies, and stores which fields the endpoint refuses: each once, so a call is repeated at most `len(REPLACED)` times."""

    def __init__(self, model: str, parameters: Mapping[str, Any], section: str) -> None:
        self._model = model
        self._parameters = dict(parameters)
        self._section = section
        self._refused: set[str] = set()

    def body(self, prompt: str, max_tokens: int, schema: dict[str, Any] | None = None) -> dict[str, Any]:
        ours: dict[str, Any] = {"temperature": 0, "max_tokens": max_tokens}
        if schema is not None:
            ours["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        for name in self._refused & ours.keys():
            value = ours.pop(name)
            if replacement := REPLACED[name]:
                ours[replacement] = value
        given = {name: value for name, value in (ours | self._parameters).items() if value is not None}
        return {"model": self._model, "messages": [{"role": "user", "content": prompt}], **given}

    def learn(self, sent: Mapping[str, Any], param: str) -> bool:
        """Stores that the endpoint refused `param` of the body `sent`. Returns whether `body` now returns another body, so that the call should be repeated."""
        if param not in REPLACED or param not in sent or param in self._parameters:
            return False
        if param not in self._refused:
            self._refused.add(param)
            fields = {"endpoint": self._section, "parameter": param, "replaced_by": REPLACED[param]}
            log.warning("the endpoint refuses a parameter: requests go without it", extra=fields)
        return True
