"""Settings of profiles: summaries, features and reasoning that are written about users ahead of their queries."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import JsonValue

from infra.settings.models import RequestParameters
from infra.settings.section import Positive, Seconds, Section
from infra.settings.texts import HeaderSecret, Name, url_of

#: Sampling of OPPU's summaries.
SAMPLING: dict[str, JsonValue] = {"temperature": 0.6, "top_p": 0.9}


class ProfileWriter(StrEnum):
    TEMPLATE = "template"  # statistics of the items, in fixed sentences
    LLM = "llm"  # an OpenAI-compatible endpoint


class ProfilesSettings(Section):
    """The profiles worker, which writes about users from a template (`template`) or at an OpenAI-compatible endpoint (`llm`)."""

    kind: ProfileWriter = ProfileWriter.TEMPLATE
    url: Annotated[str, url_of("http://127.0.0.1:8001/v1", "profiles.api_key")] | None = None  # of the endpoint; None: the base model's
    api_key: HeaderSecret | None = None  # of the endpoint at `url`
    model: Name | None = None  # the model's name at the endpoint; None: base.model
    parameters: RequestParameters = SAMPLING  # JSON object merged into each request; null removes a field
    summary_every: Positive = 10  # new items of a user in a domain after which the summary is written again
    summary_items: Positive = 10  # items that a summary is made from, drawn at random (OPPU: 10)
    summary_tokens: Positive = 256  # of one summary (OPPU: 200 to 300)
    timeout_s: Seconds = 60.0  # of one call
    concurrency: Positive = 16  # calls at the same time
