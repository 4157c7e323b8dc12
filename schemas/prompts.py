"""All prompts: of the base model (without user data), of RAG and of the reflection model, and the text of a history item.

The task and the items are texts of the query's domain entry (`schemas.domain_entries`). There are two styles. `paper` uses its templates, and RPO's appendix C
for the reflection prompt. It always names the query's options: after the task, if the template does not. `compact` has the same content in few tokens, for the
tiny models that this project trains, which learn a task by one word.
All prompts are the content of one user turn, to which the model's chat template is applied; `turns_of` adds the domain's system message. With `reasons` the
prompt asks for a chain of thought: the domain's template for it, and the instruction of `schemas.chain_of_thought`. `marks` are those of the model that reads
the prompt: users' texts and drafts are neutralised after they were joined, so that they cannot inject prompt parts (`schemas.control_marks`).
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType
from typing import Literal, NamedTuple, Protocol

from schemas import built_in_domains, chain_of_thought, control_marks, domains, rewriting, sameness, tasks, templates
from schemas.control_marks import ControlMarks
from schemas.domains import BUILT_IN_DOMAINS, Domains
from schemas.queries import Query
from schemas.sameness import is_blank
from schemas.tasks import Task
from schemas.templates import placeholders


class PromptStyle(StrEnum):
    PAPER = "paper"
    COMPACT = "compact"


@dataclass(frozen=True, eq=False)
class PromptForm:
    """How the prompts of one model are written."""

    style: PromptStyle
    domains: Domains


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


def base_prompt(query: Query, form: PromptForm, marks: ControlMarks, *, reasons: bool = False) -> str:
    """The task alone (RPO, table 8), without the domain's system message."""
    return marks.neutralized(_task_text(query, form, reasons=reasons))


def turns_of(query: Query, content: str, form: PromptForm, marks: ControlMarks) -> tuple[ChatTurn, ...]:
    """A prompt of this module for a chat model: the domain's system message, if it has one, and `content` in the user's turn."""
    system = marks.neutralized(_system_text(query, form))
    return (*([ChatTurn("system", system)] if system else []), ChatTurn("user", content))


def item_text(example: Example, domain: str, task: Task, form: PromptForm) -> str:
    """One line of the user's profile (RPO, appendix C, for `paper`). Not neutralised yet."""
    if form.style is PromptStyle.COMPACT:
        return f"{_clip(example.content, _COMPACT_ITEM_CHARS)} => {_clip(example.response, _COMPACT_ITEM_CHARS)}"
    if is_blank(example.content):
        return f'"{example.response}"'
    return _filled(form.domains.entry(domain, task).item_template, content=example.content, response=example.response)


def rag_prompt(query: Query, items: Sequence[Example], form: PromptForm, marks: ControlMarks, *, summary: str = "", reasons: bool = False) -> str:
    """Augmented generation by one model: the summary (PAG), the items (RAG), then the task, without a draft. `items` are best first; the prompt shows the
    best last.

    In the paper's style there is one item on each line under the reflection prompt's heading. LaMP's own form is `schemas.lamp_prompt`.
    """
    profile = _profile(query, items, form) if items else []
    return marks.neutralized("\n".join([*([_summary(summary, form.style)] if summary else []), *profile, _task_text(query, form, reasons=reasons)]))


def reflection_prompt(query: Query, base_answer: str, items: Sequence[Example], form: PromptForm, marks: ControlMarks) -> str:
    """`M_reflect`'s input: instruction, profile, query, draft (RPO, appendix C). The query is the task as the base model got it, after its system message.

    `items` are best first, as retrieval returns them; the prompt shows the best last, next to the query.
    """
    profile, task = _profile(query, items, form), _task_text(query, form)
    if form.style is PromptStyle.COMPACT:
        return marks.neutralized("\n".join([*profile, task, f"draft : {_clip(base_answer, _COMPACT_CHARS)}"]))
    instruction = _PAPER_REFLECTION.format(**_PAPER_WORDS[query.task])  # has our own tags
    system = _system_text(query, form)
    asked = f"{system}\n\n{task}" if system else task
    texts = marks.neutralized("\n".join([*profile, f"User query: {asked}\n", f"Initial response: {base_answer}"]))
    return f"{instruction}\n\n{texts}"


def template_digest(form: PromptForm, *more: ModuleType) -> str:
    """sha256 over the style, the settings' domain entries, and the source of this module, those that it calls, and `more`.

    Answers with the same digest had the same prompt template.
    """
    called = (built_in_domains, chain_of_thought, control_marks, domains, rewriting, sameness, tasks, templates)
    source = "\n".join(map(inspect.getsource, (sys.modules[__name__], *called, *more)))
    return hashlib.sha256(f"{form.style}\n{form.domains.digest}\n{source}".encode()).hexdigest()


def _task_text(query: Query, form: PromptForm, *, reasons: bool = False) -> str:
    entry = form.domains.entry(query.domain, query.task)
    if form.style is PromptStyle.COMPACT:
        task = f"{entry.compact_verb} : {_clip(query.text, _COMPACT_CHARS)}"
        return f"{task}\n{chain_of_thought.COMPACT_INSTRUCTION}" if reasons else task
    options = query.options or entry.options or ()
    template = entry.reasons_template if reasons else entry.user_template
    task = _filled(template, text=query.text, **_option_texts(options))
    if options and not _names_options(template, options) and not _names_options(entry.system, options):
        task += f"\n\n{(_ASK_SCALE if entry.ordered else _ASK_OPTION).format(options=', '.join(options))}"
    return f"{task}\n\n{chain_of_thought.INSTRUCTION}" if reasons else task


def _system_text(query: Query, form: PromptForm) -> str:
    """Empty without a system message. The tiny models have none."""
    entry = form.domains.entry(query.domain, query.task)
    if entry.system is None or form.style is PromptStyle.COMPACT:
        return ""
    return _filled(entry.system, **_option_texts(query.options or entry.options or ()))


def _filled(template: str | None, **values: str) -> str:
    """Texts are inserted as they are: a brace in them is no placeholder."""
    return (template or "").format(**values)


def _option_texts(options: Sequence[str]) -> dict[str, str]:
    *others, last = options or ("",)
    either = f"{', '.join(others)}{',' if len(others) > 1 else ''} or {last}" if others else last
    return {"options": ", ".join(options), "options_or": either, "first_option": (options or ("",))[0], "last_option": last}


def _names_options(template: str | None, options: Sequence[str]) -> bool:
    """By a placeholder, or in its own words. The ends of a scale name all of it if it consists of whole numbers."""
    names, words = placeholders(template or ""), template or ""
    if names & {"options", "options_or"} or all(re.search(rf"(?<!\w){re.escape(option)}(?!\w)", words) for option in options):
        return True
    return tasks.task_of(options) is Task.RATING and ({"first_option", "last_option"} <= names or f"{options[0]} to {options[-1]}" in words)


def _profile(query: Query, items: Sequence[Example], form: PromptForm) -> list[str]:
    """The parts of the profile, with its heading."""
    lines = [item_text(item, query.domain, query.task, form) for item in reversed(items)]
    return ["profile :", *lines] if form.style is PromptStyle.COMPACT else ["User profile:\n", *(f"{line}\n" for line in lines)]


def _summary(summary: str, style: PromptStyle) -> str:
    return f"summary : {_clip(summary, _COMPACT_CHARS)}" if style is PromptStyle.COMPACT else summary


def _clip(text: str, limit: int) -> str:
    """One line of at most `limit` characters, cut between words."""
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else folded[:limit].rsplit(" ", 1)[0]


#: Characters of a query or draft, and of each half of a history item, in a compact prompt. A token is about two characters.
_COMPACT_CHARS = 240
_COMPACT_ITEM_CHARS = 96
#: After a task whose template does not name the options.
_ASK_OPTION = "Answer with one of these options alone: {options}"
_ASK_SCALE = "Answer with one of these options alone, which are a scale from the first to the last: {options}"
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

#: The prompts of the built-in entries alone, for models and data sets of the project itself. Processes get theirs from the settings.
PAPER, COMPACT = PromptForm(PromptStyle.PAPER, BUILT_IN_DOMAINS), PromptForm(PromptStyle.COMPACT, BUILT_IN_DOMAINS)
