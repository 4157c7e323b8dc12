"""Settings of profiles: summaries, features and reasoning that are written about users ahead of their queries."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from infra.settings.models import RequestParameters
from infra.settings.section import Concurrency, Positive, Seconds, Section, Tokens
from infra.settings.texts import HeaderSecret, Name, url_of
from schemas.features import MAX_FEATURES

#: Sampling of OPPU's summaries, without its top-k of 10: OpenAI's endpoint has no such parameter.
SAMPLING: dict[str, JsonValue] = {"temperature": 0.6, "top_p": 0.9}


Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")]


class ProfileWriter(StrEnum):
    TEMPLATE = "template"  # statistics of the items in fixed sentences, and key phrases as features
    LLM = "llm"  # an OpenAI-compatible endpoint


class ProfilesSettings(Section):
    """The profiles worker, which writes about users from a template (`template`) or at an OpenAI-compatible endpoint (`llm`).

    Settings of one of the two are refused with the other one.
    """

    kind: ProfileWriter = ProfileWriter.TEMPLATE
    url: Annotated[str, url_of("http://127.0.0.1:8001/v1", "profiles.api_key")] | None = None  # of the endpoint; None: the base model's
    api_key: HeaderSecret | None = None  # of the endpoint at `url`
    model: Name | None = None  # the model's name at the endpoint; None: base.model
    parameters: RequestParameters = SAMPLING  # JSON object merged into each request; null removes a field
    summary_every: Positive = 10  # new items of a user in a domain after which the summary is written again
    summary_items: Annotated[int, Field(gt=0, le=10_000)] = 10  # items that a summary is made from, drawn at random (OPPU: 10)
    summary_tokens: Tokens = 256  # of one summary (OPPU: 200 to 300)
    features_backfill: Annotated[int, Field(gt=0, le=100_000)] = (
        200  # a user's newest items that get features at a query of RPM; later items get them as they arrive, older ones get none
    )
    max_features: Annotated[int, Field(ge=1, le=MAX_FEATURES)] = 6  # of one item or query, by the extractor without an LLM
    languages: Annotated[tuple[Language, ...], Field(min_length=1)] = ("en",)  # of the users' texts, ISO 639-1: its stop words are no features
    features_tokens: Tokens = 1_024  # of one answer with features or their judgement, in JSON
    reasoning_tokens: Tokens = 256  # of one reasoning path
    factor_cosine: Annotated[float, Field(ge=0, le=1)] = 0.4  # a feature joins its nearest factor from this similarity on (streams/profiles/factors.py)
    factor_users: Annotated[int, Field(gt=0, le=1_000_000)] = (
        500  # users and domains whose factors are kept in memory; others are folded from the index when they are needed
    )
    timeout_s: Seconds = 60.0  # of one call
    concurrency: Concurrency = 16  # tasks at the same time

    @model_validator(mode="after")
    def _writer_uses_them(self) -> Self:
        if self.kind is ProfileWriter.LLM:
            self.refuse_unused(["max_features", "languages"], "with profiles.kind=template, which is llm", "set that")
        else:
            of_endpoint = ["url", "api_key", "model", "parameters", "summary_tokens", "features_tokens", "reasoning_tokens", "timeout_s"]
            self.refuse_unused(of_endpoint, "with profiles.kind=llm, which is template", "set that")
        if self.url is None:
            self.refuse_unused(["api_key"], "with profiles.url, the address of its endpoint; that of base.url has base.api_key")
        return self
