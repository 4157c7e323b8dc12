"""What all sections share: the base model, and bounded numbers. `texts` has the rules of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Kafka, threads and torch take 32-bit numbers.
MAX_INT = 2_147_483_647
#: 31 years. Waits of threads end at some hundred years.
MAX_S = 1e9

#: Thresholds and shares of work: a large one costs nothing, it is only never reached.
Positive = Annotated[int, Field(gt=0, le=MAX_INT)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
# Numbers that cost threads, connections or memory. A number above these limits is a mistake.
Threads = Annotated[int, Field(gt=0, le=1_024)]
Concurrency = Annotated[int, Field(gt=0, le=10_000)]
Attempts = Annotated[int, Field(gt=0, le=1_000)]
Batch = Annotated[int, Field(gt=0, le=100_000)]
MicroBatch = Annotated[int, Field(ge=0, le=100_000)]
Tokens = Annotated[int, Field(gt=0, le=10_000_000)]
Kept = Annotated[int, Field(gt=0, le=10_000_000)]
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

    def refuse_unused(self, names: Sequence[str], used_only: str, remedy: str = "set it") -> None:
        """Raises ValueError if one of these settings differs from its default. Call it where they have no effect, which would be silent otherwise.

        `used_only`: where they have one, with the key of the setting that decides, such as `with index.url`; `remedy`: how to get there.
        """
        fields = type(self).model_fields
        if changed := [name for name in names if getattr(self, name) != fields[name].get_default(call_default_factory=True)]:
            them = "it" if len(changed) == 1 else "them"
            raise ValueError(f"{', '.join(changed)}: used only {used_only}: {remedy}, or leave {them} out")
