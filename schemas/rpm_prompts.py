"""RPM's prompts: extraction and judgement of features, reasoning paths of history items, and aligned generation.

The paper's own prompts could not be had; these ask for what its text describes. Features of history items are extracted from what the user responded to,
without the response, so that they are like the features of a query. A reasoning path explains a response that the user gave, so it exists for history items
only. Aligned generation returns `Reasoning: …` and then `Answer: …`, as plain text, which small models follow more easily than JSON.

All prompts are one user turn, and all users' text in them is neutralised for the `marks` of the model that reads them, as in `schemas.prompts`.
The compact style is for the tiny models of this project, which were trained to continue a profile of lines `text => answer` and not to reason: a feature of the
query is such a line with the most frequent answer to its factor, an example is a line without its reasoning, and the whole output is the answer. With
the feature's words the tiny base model was right for 0.58 of films, with the factor's label for 0.53 (160 questions, 2026-11-30).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from schemas import chain_of_thought, feature_extraction, features, rpm_texts
from schemas.chain_of_thought import ReasonedAnswer
from schemas.control_marks import ControlMarks
from schemas.feature_extraction import NO_FACTOR, factor_number
from schemas.features import (
    CONTEXT_CHARS,
    MAX_FEATURES,
    NAME_CHARS,
    Factor,
    FactoredFeature,
    ItemFeatures,
    Polarity,
    Propensities,
    ReasonedItem,
    UserFactors,
    source_text,
)
from schemas.prompts import PromptForm, PromptStyle, base_prompt, item_text, template_digest
from schemas.queries import Query
from schemas.rpm_texts import factor_text, factors_of, feature_text, features_line
from schemas.sameness import is_blank
from schemas.tasks import Task

#: Factors that a prompt shows: those of the query's features first, then the most frequent ones.
SHOWN_FACTORS = 24
#: Maximum length of a reasoning path, in characters. Its prompt asks for less.
REASONING_CHARS = 1_000


def extraction_prompt(text: str, task: Task, marks: ControlMarks) -> str:
    """Asks for the features of a history item, as `feature_extraction.features_schema`. `text` is its `ItemFeatures.source_text`."""
    return marks.neutralized(f"{_EXTRACT[task]}\n{_FEATURES}\n{_RETURN_FEATURES}\n\nText:\n{text}")


def query_extraction_prompt(query: Query, shown: Sequence[Factor], marks: ControlMarks) -> str:
    """Asks for the features of a query, each with one of the factors `shown`, as `feature_extraction.query_features_schema`."""
    numbered = (f"{factor_number(position)}: {factor_text(factor)}" for position, factor in enumerate(shown))
    lines = [_EXTRACT[query.task], _FEATURES, _ATTACH, _RETURN_QUERY_FEATURES, "", "Factors of the user:", *numbered, "", "Text:", query.text]
    return marks.neutralized("\n".join(lines))


def judgement_prompt(item: ItemFeatures, marks: ControlMarks) -> str:
    """Asks which features influenced the user's response, and in which direction, as `feature_extraction.judgements_schema`. For free text."""
    numbered = (f"{number}. {feature_text(feature)}" for number, feature in enumerate(item.features, start=1))
    lines = [_JUDGE, "", "Text:", item.source_text, "", "Features:", *numbered, "", "The user's response:", item.response]
    return marks.neutralized("\n".join(lines))


def reasoning_prompt(item: ItemFeatures, with_factors: Sequence[FactoredFeature], factors: UserFactors, task: Task, marks: ControlMarks) -> str:
    """Asks for the reasoning path of a history item, whose response is known. `factors` are those through this item."""
    lines = ["Text:", item.source_text, "", f"Features: {features_line(with_factors, factors)}", "", "Factors of the user:"]
    cited = (f"- {factor_text(factor)}" for factor in shown_factors(with_factors, factors))
    return marks.neutralized("\n".join([_REASON.format(did=_DID[task]), "", *lines, *cited, "", "The user's response:", item.response]))


def aligned_prompt(
    query: Query, found: Sequence[FactoredFeature], factors: UserFactors, examples: Sequence[ReasonedItem], form: PromptForm, marks: ControlMarks
) -> str:
    """Asks for reasoning and answer: the query, its features, the user's factors, and examples with their reasoning.

    `examples` are best first, as retrieval returns them; the prompt shows the best last, next to the query.
    """
    if form.style is PromptStyle.COMPACT:
        lines = ["profile :", *_answer_lines(found, factors), *(item_text(example, query.domain, query.task, form) for example in reversed(examples))]
        return "\n".join([marks.neutralized("\n".join(lines)), base_prompt(query, form, marks)])
    lines = [_ALIGN, "", "Factors of the user:", *(f"- {factor_text(factor)}" for factor in shown_factors(found, factors)), "", "Examples:", ""]
    for example in reversed(examples):
        lines += [_example(example, factors), ""]
    lines += [f"Query: {base_prompt(query, form, marks)}", f"Features: {features_line(found, factors)}", "", _ALIGNED_FORMAT]
    return marks.neutralized("\n".join(lines))


def read_aligned(output: str, style: PromptStyle) -> ReasonedAnswer | None:
    """The reasoning, perhaps empty, and the answer; None without an answer. In the compact style the whole output is the answer."""
    if style is PromptStyle.COMPACT:
        return None if is_blank(output) else ReasonedAnswer("", output.strip())
    found = chain_of_thought.parse(chain_of_thought.until_next_part(output, _NEXT_PART))
    return replace(found, reasoning=_REASONING.sub("", found.reasoning)) if found else None


def read_reasoning(output: str) -> str | None:
    """A reasoning path as one line; None if it is blank or longer than REASONING_CHARS."""
    line = " ".join(_REASONING.sub("", output.strip()).split())
    return None if is_blank(line) or len(line) > REASONING_CHARS else line


def shown_factors(found: Iterable[FactoredFeature], factors: UserFactors) -> list[Factor]:
    """At most SHOWN_FACTORS factors: those of the features, then the user's most frequent ones."""
    first = factors_of(found, factors)
    return list({factor.factor_id: factor for factor in (*first, *factors.factors)}.values())[:SHOWN_FACTORS]


@cache
def rpm_template_digest(form: PromptForm) -> str:
    """`schemas.prompts.template_digest` with this module and those that it calls."""
    return template_digest(form, sys.modules[__name__], feature_extraction, features, rpm_texts)


def _example(example: ReasonedItem, factors: UserFactors) -> str:
    query, its_features = source_text(example.content, example.response), features_line(example.features, factors)
    parts = {"Query": query, "Features": its_features, "Reasoning": example.reasoning, "Answer": example.response}
    return "\n".join(f"{name}: {' '.join(text.split())}" for name, text in parts.items())


def _answer_lines(found: Sequence[FactoredFeature], factors: UserFactors) -> list[str]:
    """Each feature of a query as a line of a profile, with the most frequent answer to its factor. The most influential feature last; none for free text."""
    lines = []
    for each in reversed(found):
        factor = factors.factor(each.factor_id)
        if factor and isinstance(factor.statistic, Propensities):
            lines.append(f"{each.feature.context or each.feature.name} => {factor.statistic.answers[0].answer}")
    return list(dict.fromkeys(lines))


#: Models write it in bold, or as a heading.
_REASONING = re.compile(r"^[ \t*_#>]*reasoning[ \t*_]*:[ \t*_]*", re.IGNORECASE)
#: Parts that no answer holds. Models that do not stop write another example.
_NEXT_PART = re.compile(r"\n[ \t*_#>]*(?:query|features|reasoning)[ \t*_]*:", re.IGNORECASE)

_EXTRACT = {
    Task.LABEL: "A user reads the text below and chooses a label for it.",
    Task.RATING: "A user reads the text below and gives it a score.",
    Task.TEXT: "A user reads the text below and writes a text in response.",
}
_DID = {Task.LABEL: "chose the label below for it", Task.RATING: "gave it the score below", Task.TEXT: "wrote the text below in response"}
_FEATURES = (
    f"List its features: the parts that may influence the user's response, the most influential first, at most {MAX_FEATURES}. "
    f"`name` is a short label, such as `taste`, of at most {NAME_CHARS} characters. "
    f"`context` is a phrase that tells what the name means here, such as `the flavor of the product`, of at most {CONTEXT_CHARS} characters. "
    "Leave out what has no influence. Take features from the text only."
)
_RETURN_FEATURES = 'Return JSON: {"features": [{"name": "...", "context": "..."}]}'
_ATTACH = (
    f"`factor` is the number of the user's factor that the feature belongs to, or `{NO_FACTOR}` if none fits. A factor groups features of the user's past."
)
_RETURN_QUERY_FEATURES = f'Return JSON: {{"features": [{{"name": "...", "context": "...", "factor": "{factor_number(0)}"}}]}}'
_JUDGE = (
    "A user read the text below and wrote the response below it. For each numbered feature of the text say whether it influenced the response (`influential`), "
    f"and in which direction (`polarity`: {', '.join(Polarity)}). Judge only by what the response says.\n"
    'Return JSON with each feature once: {"judgements": [{"feature": 1, "influential": true, "polarity": "neutral"}]}'
)
_REASON = (
    "A user read the text below and {did}. Write the reasoning that leads from the features of the text, and the statistics of their factors, "
    "to that response. Explain the behaviour that can be observed; do not guess thoughts or feelings. Name the features and cite the numbers that matter. "
    "Write two or three sentences in one paragraph, without the response's own heading."
)
_ALIGN = (
    "Answer a query as one user would. The factors say what this user responds to, with statistics of past responses. "
    "The examples are past responses of the user with the reasoning that leads to them. "
    "Reason about the query as the examples do: from its features and the statistics of their factors to the answer. "
    "Do not copy wording from the examples."
)
_ALIGNED_FORMAT = "First write `Reasoning:` and the reasoning in one to three sentences. Then write on a new line `Answer:` and only the answer."
