"""How a text of the base model becomes an answer: one rule for all strategies, so that comparisons of them are fair.

The answer is the stripped text, or with a chain of thought the text after its marker. An answer that names one of the query's options is spelled as the
option is. The same holds for the reflection model's answers (`schemas.tasks`).
"""

from __future__ import annotations

from schemas import chain_of_thought
from schemas.queries import Query
from schemas.tasks import read_answer
from workers.strategies.strategy import Answer


def base_answer(query: Query, text: str) -> str:
    """The answer of the task's prompt alone. It goes out as it is even if it is none of the options: no simpler strategy could answer."""
    return read_answer(text, query.options) or text.strip()


def allowed_answer(query: Query, text: str, *, reasons: bool = False) -> Answer | None:
    """None if the answer is blank or none of the query's options, or if a text with a chain of thought (`reasons`) has no readable answer."""
    reasoning, answer = "", text
    if reasons:
        found = chain_of_thought.parse(text)
        if found is None:
            return None
        reasoning, answer = found.reasoning, found.answer
    option = read_answer(answer, query.options)
    return None if option is None else Answer(option, reasoning)
