"""The source of each setting's value, with secrets and the users in URLs hidden."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from infra.settings.loading import USUAL_NAMES, Settings, variable_of
from infra.settings.secret_files import secret_files
from infra.urls import without_user


@dataclass(frozen=True)
class Setting:
    """One value. `source` is `default`, the file's path, or the environment variable's name."""

    key: str
    value: Any
    source: str


def sources(settings: Settings) -> tuple[Setting, ...]:
    """Every setting in the order of declaration. Reads the environment and the file again, as `load` did."""
    path = os.environ.get("RETOUCH_CONFIG")
    file = tomllib.loads(Path(path).read_text()) if path else {}
    variables = {name.upper(): name for name, value in os.environ.items() if value}
    usual = {".".join(parts): name for name, parts in USUAL_NAMES.items() if os.environ.get(name)}
    usual |= {secret.key: secret.variable for secret in secret_files(Settings, USUAL_NAMES)}
    return tuple(
        Setting(key, _printable(value), _source(key, file, path, variables, usual if value is not None else {})) for key, value in _leaves(settings, "")
    )


def _leaves(model: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        elif name == "domains":  # a section for each, of which only some fields are set
            for domain, entry in value.items():
                yield from ((key, leaf) for key, leaf in _leaves(entry, f"{prefix}{name}.{domain}.") if leaf is not None)
        else:
            yield f"{prefix}{name}", value


def _source(key: str, file: dict[str, Any], path: str | None, variables: dict[str, str], usual: dict[str, str]) -> str:
    parts = key.split(".")
    for length in range(len(parts), 0, -1):  # shorter: a whole section as JSON
        if (variable := variable_of(".".join(parts[:length]))) in variables:
            return variables[variable]
    if key in usual:
        return usual[key]
    return str(path) if _is_in(file, key) else "default"


def _is_in(file: dict[str, Any], key: str) -> bool:
    value: Any = file
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def _printable(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "**********"
    if isinstance(value, dict):
        return json.dumps(value)
    return value if value is None or isinstance(value, bool | int | float) else without_user(str(value))
