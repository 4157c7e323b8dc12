"""RPM's data as text: statistics, factors and features in a prompt, and the reasoning path that needs no language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from schemas.features import Factor, FactoredFeature, Feature, Influence, Propensities, Statistic, UserFactors
from schemas.sameness import is_blank, normalized

#: Answers of a statistic that a text names. The rest is summed.
SHOWN_ANSWERS = 3
#: Factors that the template's reasoning cites.
CITED_FACTORS = 3
ANSWER_CHARS = 120


def statistic_text(statistic: Statistic) -> str:
    """`5 items: comedy 80 %, dark comedy 20 %`, or `7 items, 4 influences: 75 % positive, 25 % neutral`."""
    return _propensities(statistic) if isinstance(statistic, Propensities) else _influence(statistic)


def factor_text(factor: Factor) -> str:
    return f"{factor.label} ({statistic_text(factor.statistic)})"


def feature_text(feature: Feature) -> str:
    """`taste (the flavor of the product)`."""
    return feature.name if is_blank(feature.context) else f"{feature.name} ({feature.context})"


def features_line(features: Iterable[FactoredFeature], factors: UserFactors) -> str:
    """Features with the labels of their factors, in one line."""
    return "; ".join(f"{feature_text(found.feature)} [{_label(found, factors)}]" for found in features) or "none"


def factors_of(features: Iterable[FactoredFeature], factors: UserFactors) -> list[Factor]:
    """The different factors of the features, in the order of the features."""
    found = (factors.factor(feature.factor_id) for feature in features)
    return list({factor.factor_id: factor for factor in found if factor}.values())


def template_reasoning(features: Sequence[FactoredFeature], factors: UserFactors, response: str) -> str:
    """The reasoning path of a history item without a language model. It cites the item's factors with their statistics.

    It says what the user's behaviour was, and supposes no thoughts. `factors` include the item itself, so each of its factors has a statistic.
    """
    cited = factors_of(features, factors)
    answer = _shortened(response)
    if not cited:
        return f"No feature of it belongs to a factor of this user. The answer is {answer}."
    if isinstance(cited[0].statistic, Propensities):
        cited.sort(key=lambda factor: -_propensity(factor, response))
    facts = [f"{_names(factor, features)}: in {statistic_text(factor.statistic)}." for factor in cited[:CITED_FACTORS]]
    return " ".join([*facts, _conclusion(cited[0], features, response, answer)])


def _conclusion(factor: Factor, features: Sequence[FactoredFeature], response: str, answer: str) -> str:
    if isinstance(factor.statistic, Propensities):
        share = _propensity(factor, response)
        return f"With {factor.label} this user answers {answer} in {_percent(share)} of the items, so the answer is {answer}."
    used = [found.feature.name for found in features if found.feature.judgement and found.feature.judgement.influential]
    return f"The response takes up {_listed(used)}." if used else "The response takes up none of them."


def _propensity(factor: Factor, response: str) -> float:
    answers = factor.statistic.answers if isinstance(factor.statistic, Propensities) else ()
    return next((answer.propensity for answer in answers if answer.answer == normalized(response)), 0.0)


def _names(factor: Factor, features: Sequence[FactoredFeature]) -> str:
    """`silly joke, of the factor joke`."""
    names = _listed([found.feature.name for found in features if found.factor_id == factor.factor_id])
    return names if names == factor.label else f"{names}, of the factor {factor.label}"


def _label(found: FactoredFeature, factors: UserFactors) -> str:
    factor = factors.factor(found.factor_id)
    return factor.label if factor else "no factor"


def _propensities(statistic: Propensities) -> str:
    shown = [f"{_shortened(answer.answer)} {_percent(answer.propensity)}" for answer in statistic.answers[:SHOWN_ANSWERS]]
    if rest := sum(answer.items for answer in statistic.answers[SHOWN_ANSWERS:]):
        shown.append(f"others {_percent(rest / statistic.items)}")
    return f"{_counted(statistic.items, 'item')}: {', '.join(shown)}"


def _influence(statistic: Influence) -> str:
    counted = f"{_counted(statistic.coverage, 'item')}, {_counted(statistic.influence, 'influence')}"
    if statistic.polarity is None:
        return counted
    shares = statistic.polarity.model_dump()
    return f"{counted}: {', '.join(f'{_percent(share)} {polarity}' for polarity, share in shares.items() if share)}"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _percent(share: float) -> str:
    return f"{round(100 * share)} %"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(dict.fromkeys(names))


def _shortened(text: str) -> str:
    """In one line, cut between words."""
    line = " ".join(text.split())
    return line if len(line) <= ANSWER_CHARS else line[:ANSWER_CHARS].rsplit(" ", 1)[0]
