"""What all sections share: the base model, and bounded numbers. `texts` has the rules of texts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Kafka, threads and torch take 32-bit numbers.
MAX_INT = 2_147_483_647
#: 31 years. Waits of threads end at some hundred years.
MAX_S = 1e9

Positive = Annotated[int, Field(gt=0, le=MAX_INT)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Seconds = Annotated[float, Field(gt=0, le=MAX_S)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Base of all sections. An empty value counts as not set, in every source: launchers often set variables to an empty text."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_empty_values(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value != ""} if isinstance(values, dict) else values
