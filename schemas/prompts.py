"""All prompts: of the base model (without user data), of RAG and of the reflection model, and the text of a history item.

There are two styles. `paper` is RPO's: table 8 for base prompts, appendix C for the reflection prompt, LaMP's item texts.
`compact` has the same content in few tokens, for the tiny models that this project trains.
All prompts are the content of one user turn, to which the model's chat template is applied. With `reasons` the prompt asks for a chain of thought: table 8's
words against explanations are left out, and the instruction of `schemas.chain_of_thought` follows. `marks` are those of the model that reads the prompt:
users' texts and drafts are neutralised after they were joined, so that they cannot inject prompt parts (`schemas.control_marks`).
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Sequence
from enum import StrEnum
from types import ModuleType
from typing import Literal, NamedTuple, Protocol

from schemas import chain_of_thought, control_marks, rewriting, sameness, tasks
from schemas.control_marks import ControlMarks
from schemas.queries import Query
from schemas.sameness import is_blank
from schemas.tasks import Task


class PromptStyle(StrEnum):
    PAPER = "paper"
    COMPACT = "compact"


class ChatTurn(NamedTuple):
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Example(Protocol):
    """The part of a past interaction that a prompt shows."""

    @property
    def content(self) -> str: ...
    @property
    def response(self) -> str: ...


def base_prompt(query: Query, style: PromptStyle, marks: ControlMarks, *, reasons: bool = False) -> str:
    """The task alone (RPO, table 8)."""
    return marks.neutralized(_task_text(query, style, reasons=reasons))


def item_text(example: Example, domain: str, task: Task, style: PromptStyle) -> str:
    """One line of the user's profile (RPO, appendix C, for `paper`). Not neutralised yet."""
    if style is PromptStyle.COMPACT:
        return f"{_clip(example.content, _COMPACT_ITEM_CHARS)} => {_clip(example.response, _COMPACT_ITEM_CHARS)}"
    if is_blank(example.content):
        return f'"{example.response}"'
    template = _PAPER_ITEM.get(domain, _PAPER_ITEM_BY_TASK[task])
    return template.format(content=example.content, response=example.response)


def rag_prompt(query: Query, items: Sequence[Example], style: PromptStyle, marks: ControlMarks, *, summary: str = "", reasons: bool = False) -> str:
    """Augmented generation by one model: the summary (PAG), the items (RAG), then the task, without a draft. `items` are best first; the prompt shows the
    best last.

    In the paper's style there is one item on each line under the reflection prompt's heading. LaMP's own form is `schemas.lamp_prompt`.
    """
    profile = _profile(query, items, style) if items else []
    return marks.neutralized("\n".join([*([_summary(summary, style)] if summary else []), *profile, _task_text(query, style, reasons=reasons)]))


def reflection_prompt(query: Query, base_answer: str, items: Sequence[Example], style: PromptStyle, marks: ControlMarks) -> str:
    """`M_reflect`'s input: instruction, profile, query, draft (RPO, appendix C).

    `items` are best first, as retrieval returns them; the prompt shows the best last, next to the query.
    """
    profile, task = _profile(query, items, style), _task_text(query, style)
    if style is PromptStyle.COMPACT:
        return marks.neutralized("\n".join([*profile, task, f"draft : {_clip(base_answer, _COMPACT_CHARS)}"]))
    instruction = _PAPER_REFLECTION.format(**_PAPER_WORDS[query.task])  # has our own tags
    texts = marks.neutralized("\n".join([*profile, f"User query: {task}\n", f"Initial response: {base_answer}"]))
    return f"{instruction}\n\n{texts}"


def template_digest(style: PromptStyle, *more: ModuleType) -> str:
    """sha256 over the style and the source of this module, those that it calls, and `more`. Answers with the same digest had the same prompt template."""
    source = "\n".join(map(inspect.getsource, (sys.modules[__name__], chain_of_thought, control_marks, rewriting, sameness, tasks, *more)))
    return hashlib.sha256(f"{style}\n{source}".encode()).hexdigest()


def _task_text(query: Query, style: PromptStyle, *, reasons: bool = False) -> str:
    if style is PromptStyle.COMPACT:
        task = f"{_COMPACT_VERBS.get(query.domain, _COMPACT_VERBS_BY_TASK[query.task])} : {_clip(query.text, _COMPACT_CHARS)}"
        return f"{task}\n{chain_of_thought.COMPACT_INSTRUCTION}" if reasons else task
    template = _PAPER_BASE.get(query.domain, _PAPER_BASE_BY_TASK[query.task])
    if reasons:
        template = _PAPER_OPEN.get(query.domain, template if query.domain in _PAPER_BASE else _PAPER_OPEN_BY_TASK[query.task])
    task = template.format(text=query.text, options=", ".join(query.options))
    return f"{task}\n\n{chain_of_thought.INSTRUCTION}" if reasons else task


def _profile(query: Query, items: Sequence[Example], style: PromptStyle) -> list[str]:
    """The parts of the profile, with its heading."""
    lines = [item_text(item, query.domain, query.task, style) for item in reversed(items)]
    return ["profile :", *lines] if style is PromptStyle.COMPACT else ["User profile:\n", *(f"{line}\n" for line in lines)]


def _summary(summary: str, style: PromptStyle) -> str:
    return f"summary : {_clip(summary, _COMPACT_CHARS)}" if style is PromptStyle.COMPACT else summary


def _clip(text: str, limit: int) -> str:
    """One line of at most `limit` characters, cut between words."""
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else folded[:limit].rsplit(" ", 1)[0]


#: Characters of a query or draft, and of each half of a history item, in a compact prompt. A token is about two characters.
_COMPACT_CHARS = 240
_COMPACT_ITEM_CHARS = 96
_COMPACT_VERBS = {"scholarly_title": "title", "news_headline": "title"}
_COMPACT_VERBS_BY_TASK = {Task.LABEL: "tag", Task.RATING: "score", Task.TEXT: "style"}

_PAPER_BASE = {
    "movie_tag": (
        "Which tag does this movie relate to among the following tags? Just answer with the tag name without further explanation. "
        "tags: [{options}] description: {text}"
    ),
    "product_rating": (
        "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without further explanation. review: {text}"
    ),
    "scholarly_title": "Generate a title for the following abstract of a paper: {text}",
    "news_headline": "Generate a headline for the following article: {text}",
    "tweet_paraphrase": "Paraphrase the following tweet without any explanation before or after it: {text}",
}
_PAPER_BASE_BY_TASK = {
    Task.LABEL: "Which of the following options fits the text? Just answer with the option without further explanation. options: [{options}] text: {text}",
    Task.RATING: "Which score fits the following text? Just answer with one of {options} without further explanation. text: {text}",
    Task.TEXT: "Respond to the following text without any explanation before or after it: {text}",
}
#: The same tasks without words against explanations, for a chain of thought.
_PAPER_OPEN = {
    "movie_tag": "Which tag does this movie relate to among the following tags? tags: [{options}] description: {text}",
    "product_rating": "What is the score of the following review on a scale of 1 to 5? review: {text}",
    "tweet_paraphrase": "Paraphrase the following tweet: {text}",
}
_PAPER_OPEN_BY_TASK = {
    Task.LABEL: "Which of the following options fits the text? options: [{options}] text: {text}",
    Task.RATING: "Which score fits the following text, one of {options}? text: {text}",
    Task.TEXT: "Respond to the following text: {text}",
}
_PAPER_ITEM = {
    "movie_tag": 'The tag for the movie: "{content}" is {response}',
    "product_rating": '{response} is the score for "{content}"',
    "scholarly_title": '"{response}" is the title for "{content}"',
    "news_headline": '"{response}" is the headline for "{content}"',
}
_PAPER_ITEM_BY_TASK = {
    Task.LABEL: 'The label for "{content}" is {response}',
    Task.RATING: '{response} is the score for "{content}"',
    Task.TEXT: '"{response}" is the response to "{content}"',
}
_PAPER_REFLECTION = (
    "You will receive a user's query, an initial response, and a set of the user's past {examples} as examples of their {tendency}. "
    "Analyze these prior examples to infer the user's personalized {style}. "
    "Then, revise the initial response to better match it. "
    "Do not copy wording or decisions directly from the examples; only emulate the user's tendencies. "
    "The output should follow this structured format: <think>...</think>, and <personalized>...</personalized>."
)
_PAPER_WORDS = {
    Task.LABEL: {
        "examples": "description-label pairs",
        "tendency": "labelling preferences and interpretive patterns",
        "style": "labelling style, how they read themes, and how they tell similar labels apart",
    },
    Task.RATING: {
        "examples": "text-score pairs",
        "tendency": "scoring behaviour",
        "style": "rating style: their criteria, consistency, and leniency or harshness",
    },
    Task.TEXT: {
        "examples": "texts",
        "tendency": "writing style",
        "style": "manner of writing: structure, wording, punctuation, capitalization and tone",
    },
}
