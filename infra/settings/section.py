"""What all sections share: the base model, bounded numbers, and the form of URLs."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from infra.urls import without_user

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]

#: An HTTP URL without user:password@, which `config print`, reports and logs would show.
WEB_ADDRESS = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?", re.IGNORECASE)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def refuse_user(url: str | None, instead: str) -> str | None:
    """Returns `url`. Raises ValueError if it holds user:password@; `instead` names the setting for the secret."""
    if url and without_user(url) != url:
        raise ValueError(f"must not hold user:password@, which reports and logs would show; use {instead} instead")
    return url
