"""Settings as environment variables, by which a supervisor passes its settings to the processes it starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, SecretStr

from infra.settings import Settings
from infra.settings.loading import USUAL_NAMES
from infra.settings.secret_files import SUFFIX

PREFIX = "RETOUCH_"


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with its settings replaced by `settings`, secrets included. `load()` in a child returns an equal object."""
    names = {*USUAL_NAMES, *(name + SUFFIX for name in USUAL_NAMES)}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX) and name not in names}
    return inherited | dict(_variables(settings, PREFIX))


def _variables(model: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    """The values that differ from the defaults, by the variable names that `load()` reads."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _variables(value, f"{prefix}{name.upper()}__")
        elif value != field.get_default(call_default_factory=True):
            yield f"{prefix}{name.upper()}", _text(value)


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, list | tuple | dict | bool) or value is None:
        return json.dumps(value, default=_values)
    return str(value)


def _values(entry: BaseModel) -> dict[str, Any]:
    """Of a domain's entry inside the dictionary of them."""
    return entry.model_dump(mode="json", exclude_none=True)
