"""What the views of the promoter's API share (`schemas.promotion_view`, `schemas.comparison_view`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer

from schemas.messages import AwareDatetime

#: Written with `+00:00`, as `datetime.isoformat` does; the fields of a Transition end in `Z`.
IsoDatetime = Annotated[AwareDatetime, PlainSerializer(lambda at: at.isoformat(), return_type=str, when_used="json")]


class ViewPart(BaseModel):
    """Base of the views. Ignores unknown fields; JSON holds null for an infinite or missing figure."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


class RewardInterval(ViewPart):
    """Mean reward with its 95 % interval over users; None if unknown."""

    scored: int
    mean: float | None
    low: float | None
    high: float | None
