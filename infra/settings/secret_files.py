"""Secrets from files, as Docker and Kubernetes mount them: an environment variable of a secret setting with `_FILE` behind its name holds the file's path.

By hand: pydantic-settings reads only directories whose files have the names of the settings.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from infra.errors import BadSetting

SUFFIX = "_FILE"
MAX_BYTES = 65_536


@dataclass(frozen=True)
class SecretFile:
    """The file of one secret. `variable` is the environment variable that names it."""

    parts: tuple[str, ...]
    variable: str
    path: str

    @property
    def key(self) -> str:
        return ".".join(self.parts)

    def secret(self) -> str:
        """The content without the line end at its end. Raises BadSetting, which names the variable and the file and never repeats the content."""
        where = f"{self.variable}={self.path}"
        if not Path(self.path).is_file():
            raise BadSetting(f"{where}: no such file; name the file that holds {self.key}")
        try:
            with Path(self.path).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            text = content.decode()
        except OSError as error:
            raise BadSetting(f"{where}: cannot be read: {error.strerror or type(error).__name__}") from None
        except UnicodeDecodeError:
            raise BadSetting(f"{where}: is not UTF-8; write {self.key} as text") from None
        if len(content) > MAX_BYTES:
            raise BadSetting(f"{where}: has more than {MAX_BYTES} bytes; name the file that holds {self.key} alone")
        secret = text.removesuffix("\n").removesuffix("\r")
        if not secret:
            raise BadSetting(f"{where}: is empty; write {self.key} into it, or unset the variable")
        return secret


def secret_files(model: type[BaseModel], usual_names: Mapping[str, tuple[str, ...]]) -> tuple[SecretFile, ...]:
    """The files that the environment names. `usual_names`: variables without our prefix, and the setting each fills."""
    variables = {name.upper(): (name, value) for name, value in os.environ.items() if value}
    secrets = set(secret_settings(model))
    names = [("RETOUCH_" + "__".join(parts).upper(), parts) for parts in sorted(secrets)]
    names += [(name, parts) for name, parts in usual_names.items() if parts in secrets]
    found = [(parts, *variables[name + SUFFIX]) for name, parts in names if name + SUFFIX in variables]
    return tuple(SecretFile(parts, variable, path) for parts, variable, path in found)


def secret_settings(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The secret settings, each as the names of its sections and its field."""
    for name, field in model.model_fields.items():
        kinds = {field.annotation, *typing.get_args(field.annotation)}
        if any(_is_secret(kind) for kind in kinds):
            yield (*above, name)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from secret_settings(field.annotation, (*above, name))


def _is_secret(kind: Any) -> bool:
    return kind is SecretStr or typing.get_args(kind)[:1] == (SecretStr,)  # of Annotated
