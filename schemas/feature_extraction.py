"""What a language model is asked to return about features, and how its answers are read.

Three answers are JSON objects: the features of an item, their judgement, and the features of a query with the user's factors. Their schemas use only
keywords that endpoints support in strict mode; lengths are stated in the prompts (`schemas.rpm_prompts`) and checked here.

An answer is used as it is or refused as a whole, with a `Flaw`. Two things are no flaws, because nothing is added: features beyond the first MAX_FEATURES
and repeated ones are left out, and long contexts are cut between words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.features import CONTEXT_CHARS, MAX_FEATURES, NAME_CHARS, Factor, FactoredFeature, Feature, Judgement, Polarity
from schemas.sameness import folded, is_blank, visible

#: A query's feature that fits no factor.
NO_FACTOR = "none"


class Flaw(StrEnum):
    """Why an answer is refused. A closed set, for `retouch_feature_answers_refused_total`."""

    NO_OBJECT = "no_object"  # no JSON object with these fields
    WRONG_SHAPE = "wrong_shape"  # a field is missing or of another type
    BLANK_NAME = "blank_name"
    LONG_NAME = "long_name"
    UNKNOWN_FACTOR = "unknown_factor"  # none of those in the prompt
    NOT_EACH_ONCE = "not_each_once"  # a feature has no judgement, or several


class RefusedAnswer(ValueError):
    """The model's answer cannot be used. Its text holds no part of the answer."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(f"the answer about features is refused: {flaw}")
        self.flaw = flaw


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Named(_Part):
    name: str
    context: str


class _NamedWithFactor(_Named):
    factor: str


class _Judged(_Part):
    feature: int
    influential: bool
    polarity: str


class _Features(_Part):
    features: list[_Named]


class _QueryFeatures(_Part):
    features: list[_NamedWithFactor]


class _Judgements(_Part):
    judgements: list[_Judged]


#: The field of each answer, by which a JSON object is found in a longer text.
FEATURES_FIELD, JUDGEMENTS_FIELD = "features", "judgements"


P = TypeVar("P", bound=_Part)
N = TypeVar("N", bound=_Named)


def features_schema() -> dict[str, Any]:
    """JSON Schema of the answer with the features of a text."""
    return _object(features=_array(_object(name=_STRING, context=_STRING)))


def query_features_schema(factors: int) -> dict[str, Any]:
    """JSON Schema of the answer with the features of a query, each with one of the numbered factors of the prompt."""
    return _object(features=_array(_object(name=_STRING, context=_STRING, factor=_enum([*map(factor_number, range(factors)), NO_FACTOR]))))


def judgements_schema() -> dict[str, Any]:
    """JSON Schema of the answer with one judgement for each numbered feature of the prompt."""
    judged = _object(feature={"type": "integer"}, influential={"type": "boolean"}, polarity=_enum([str(polarity) for polarity in Polarity]))
    return _object(judgements=_array(judged))


def factor_number(position: int) -> str:
    """The name of a factor in a prompt and its answer: `F1`, `F2`."""
    return f"F{position + 1}"


def read_features(answer: Mapping[str, Any] | None) -> tuple[Feature, ...]:
    """The features of a text. `answer` is the decoded object, None if there is none. Raises RefusedAnswer."""
    return tuple(feature for feature, _ in _distinct(_read(_Features, answer).features))


def read_query_features(answer: Mapping[str, Any] | None, shown: Sequence[Factor]) -> tuple[FactoredFeature, ...]:
    """The features of a query with the factors that the prompt showed. Raises RefusedAnswer."""
    ids = {factor_number(position): factor.factor_id for position, factor in enumerate(shown)}
    found = []
    for feature, named in _distinct(_read(_QueryFeatures, answer).features):
        if named.factor != NO_FACTOR and named.factor not in ids:
            raise RefusedAnswer(Flaw.UNKNOWN_FACTOR)
        found.append(FactoredFeature(feature=feature, factor_id=ids.get(named.factor), chosen=True))
    return tuple(found)


def read_judgements(answer: Mapping[str, Any] | None, features: Sequence[Feature]) -> tuple[Feature, ...]:
    """The features, each with its judgement. Raises RefusedAnswer unless each has exactly one."""
    judged = {}
    judgements = _read(_Judgements, answer).judgements
    for judgement in judgements:
        if judgement.polarity not in set(Polarity):
            raise RefusedAnswer(Flaw.WRONG_SHAPE)
        judged[judgement.feature] = Judgement(influential=judgement.influential, polarity=Polarity(judgement.polarity))
    if len(judged) != len(judgements) or judged.keys() != set(range(1, len(features) + 1)):
        raise RefusedAnswer(Flaw.NOT_EACH_ONCE)
    return tuple(feature.model_copy(update={"judgement": judged[number]}) for number, feature in enumerate(features, start=1))


def _read(part: type[P], answer: Mapping[str, Any] | None) -> P:
    if answer is None:
        raise RefusedAnswer(Flaw.NO_OBJECT)
    try:
        return part.model_validate(answer)
    except ValidationError:
        raise RefusedAnswer(Flaw.WRONG_SHAPE) from None


def _distinct(named: Iterable[N]) -> list[tuple[Feature, N]]:
    found: dict[tuple[str, str], tuple[Feature, N]] = {}
    for each in named:
        feature = _feature(each)
        found.setdefault((folded(feature.name), folded(feature.context)), (feature, each))
    return list(found.values())[:MAX_FEATURES]


def _feature(named: _Named) -> Feature:
    name, context = (" ".join(visible(text).split()) for text in (named.name, named.context))
    if is_blank(name):
        raise RefusedAnswer(Flaw.BLANK_NAME)
    if len(name) > NAME_CHARS:
        raise RefusedAnswer(Flaw.LONG_NAME)
    return Feature(name=name, context=context if len(context) <= CONTEXT_CHARS else context[:CONTEXT_CHARS].rsplit(" ", 1)[0])


_STRING: dict[str, Any] = {"type": "string"}


def _enum(values: Sequence[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
