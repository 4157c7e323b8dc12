"""Features and factors: a user's history as structured data (RPM, reasoning-level personalization, ICLR 2026).

- A *feature* is a part of what a user responded to that may influence the response: a short name and a context that tells its meaning.
- A *factor* is a group of similar features of one user and domain. It is a factor of an item if the item has one of its features.
- The *statistic* of a factor says how the user responded to items with it: propensities of answers, or coverage, influence and polarity of free text.

Statistics count items strictly before a moment (docs/rules.md, 2). `UserFactors.version` identifies the statistics that a reasoning path or a prompt cites.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Annotated, Literal, NamedTuple, Self
from uuid import UUID

from pydantic import Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

from schemas.messages import AwareDatetime, Record, Text
from schemas.sameness import is_blank, normalized

#: Bounds of what an extractor writes. MiniLM reads about 1,200 characters: of the longest lists it reads the first features, which are the most influential.
MAX_FEATURES, NAME_CHARS, CONTEXT_CHARS = 12, 80, 160

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Polarity(StrEnum):
    """The direction in which a feature influenced a response."""

    POSITIVE = "positive"
    NEUTRAL = "neutral"
    NEGATIVE = "negative"


class Judgement(Record):
    """What the extractor says about one feature and the user's response. Needed for free text only."""

    influential: bool  # whether the feature influenced the response
    polarity: Polarity


class Feature(Record):
    """A part of a text that may influence the response to it: name `taste`, context `the flavor of the product`."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARS)]
    context: Annotated[str, StringConstraints(max_length=CONTEXT_CHARS)] = ""
    judgement: Judgement | None = None

    @field_validator("name")
    @classmethod
    def _is_visible(cls, name: str) -> str:
        if is_blank(name):
            raise PydanticCustomError("blank_name", "a feature needs a visible name")
        return name

    @property
    def text(self) -> str:
        """What is embedded to find its factor."""
        return self.name if is_blank(self.context) else f"{self.name}: {self.context}"


def features_text(features: Iterable[Feature]) -> str:
    """What is embedded to retrieve items by their features, and never by their raw text."""
    return "; ".join(feature.text for feature in features)


def source_text(content: str, response: str) -> str:
    """The text of a history item that has the features: what the user responded to; the response itself if that is blank, as for LaMP-7's tweets."""
    return response if is_blank(content) else content


class ItemOrder(NamedTuple):
    """The order in which items are counted, whatever the order of their arrival."""

    occurred_at: datetime
    interaction_id: UUID


class ItemFeatures(Record):
    """A history item with its features, most influential first."""

    interaction_id: UUID
    content: Text
    response: Text
    occurred_at: AwareDatetime
    features: Annotated[tuple[Feature, ...], Field(max_length=MAX_FEATURES)]

    @field_validator("response")
    @classmethod
    def _is_an_answer(cls, response: str) -> str:
        if is_blank(response):
            raise PydanticCustomError("no_response", "an item without a response says nothing about the user's answers")
        return response

    @property
    def order(self) -> ItemOrder:
        return ItemOrder(self.occurred_at, self.interaction_id)

    @property
    def answer(self) -> str:
        """The response in the form in which equal answers are equal."""
        return normalized(self.response)

    @property
    def source_text(self) -> str:
        return source_text(self.content, self.response)


class FactoredFeature(Record):
    """A feature with its factor. None: it is similar to no factor of the user, so it has no statistic."""

    feature: Feature
    factor_id: UUID | None
    chosen: bool = False  # a language model saw the user's factors, and chose this one, or that none fits; False: nothing was chosen


class AnswerPropensity(Record):
    answer: Text
    items: Annotated[int, Field(ge=1)]  # with the factor and this answer
    propensity: Share  # `items` over all items with the factor


class Propensities(Record):
    """The statistic for labels and ratings: the share of each answer among the items with the factor. Most frequent answer first; the shares sum to 1."""

    kind: Literal["propensities"] = "propensities"
    items: Annotated[int, Field(ge=1)]  # with the factor
    answers: Annotated[tuple[AnswerPropensity, ...], Field(min_length=1)]


class PolarityShares(Record):
    """Shares among the influential features of a factor. They sum to 1."""

    positive: Share
    neutral: Share
    negative: Share


class Influence(Record):
    """The statistic for free text."""

    kind: Literal["influence"] = "influence"
    coverage: Annotated[int, Field(ge=1)]  # items with the factor
    influence: Count  # features of the factor that influenced their response
    polarity: PolarityShares | None  # None without an influential feature


Statistic = Annotated[Propensities | Influence, Field(discriminator="kind")]


class Factor(Record):
    factor_id: UUID
    label: str  # the most frequent name of its features
    statistic: Statistic

    @property
    def items(self) -> int:
        """Items with the factor."""
        return self.statistic.items if isinstance(self.statistic, Propensities) else self.statistic.coverage


class UserFactors(Record):
    """The factors of one user and domain with their statistics, `C_u` in the paper. The factor of most items first."""

    factors: tuple[Factor, ...]
    items: Count  # all items counted, also those without a feature
    until: AwareDatetime | None  # time of the last one
    version: str  # digest of everything else, also where only a part of the factors is present

    @classmethod
    def of(cls, factors: Iterable[Factor], items: int, until: datetime | None) -> Self:
        in_order = tuple(sorted(factors, key=lambda factor: (-factor.items, factor.label, factor.factor_id)))
        unversioned = cls(factors=in_order, items=items, until=until, version="")
        digest = blake2b(unversioned.model_dump_json(exclude={"version"}).encode(), digest_size=16).hexdigest()
        return unversioned.model_copy(update={"version": digest})

    def part(self, factors: Iterable[Factor]) -> Self:
        """With these factors only, in the order of all. `items` and `version` stay those of all factors."""
        kept = {factor.factor_id for factor in factors}
        return self.model_copy(update={"factors": tuple(factor for factor in self.factors if factor.factor_id in kept)})

    def factor(self, factor_id: UUID | None) -> Factor | None:
        return next((factor for factor in self.factors if factor.factor_id == factor_id), None)


class ReasonedItem(Record):
    """An item of the user's history with its features and the reasoning that leads to the response; all of them are `S_u` in the paper."""

    interaction_id: UUID
    content: Text
    response: Text
    occurred_at: AwareDatetime
    features: tuple[FactoredFeature, ...]
    reasoning: Text
    statistics_version: str  # of the UserFactors that the reasoning cites
