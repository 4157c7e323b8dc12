"""A domain entry: how the queries of one domain are asked, and how their answers are scored. Built-in, or a section `[domains.NAME]` of the settings."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from schemas.measures import MEASURES, measure_of
from schemas.messages import Label
from schemas.queries import stored_options
from schemas.tasks import Task, task_of
from schemas.templates import check_template

#: Placeholders for the options: all of them (`a, b, c`), as a choice (`a, b, or c`), and the ends of a scale.
OPTION_PLACEHOLDERS = ("options", "options_or", "first_option", "last_option")
MAX_TEMPLATE_CHARS = 8_000

Template = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEMPLATE_CHARS)]


class DomainEntry(BaseModel):
    """One domain. Templates are those of `schemas.templates`; None: not set by this entry."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    system: Template | None = None  # the base model's system message, with placeholders of the options; None: no such message
    user_template: Template | None = None  # the task, as the base model's user message: {text}, and placeholders of the options
    reasons_template: Template | None = None  # the task of strategies that ask for a chain of thought; None: user_template
    item_template: Template | None = None  # one item of the user's history in a prompt: {content} and {response}
    summary_instruction: Template | None = None  # what PAG's summary of a user's history is asked to say; without placeholders
    compact_verb: Annotated[str, StringConstraints(pattern=r"^\S+$", max_length=32)] | None = None  # the task in the tiny models' prompts
    options: Annotated[tuple[Label, ...], Field(max_length=256)] | None = None  # of queries that name none; empty: free text
    ordered: bool | None = None  # the options are a scale, lowest first, such as P1 to P4
    k: Annotated[int, Field(ge=1, le=100)] | None = None  # history items in a prompt, at most retrieval.k_max; None: reflection.k and strategies.k
    metric: str | None = None  # of reports and of the gate: a name of MEASURES, or an entry point module:callable. None: that of the kind of answer
    reward: str | None = None  # of reinforcement learning and of online quality, as `metric`; None: `metric`
    max_new_tokens: Annotated[int, Field(gt=0, le=10_000_000)] | None = None  # of one answer, by the base model or in a rewrite; None: base.max_new_tokens

    @field_validator("system")
    @classmethod
    def _check_system(cls, template: str | None) -> str | None:
        return _checked(template, OPTION_PLACEHOLDERS, ())

    @field_validator("user_template", "reasons_template")
    @classmethod
    def _check_task(cls, template: str | None) -> str | None:
        return _checked(template, ("text", *OPTION_PLACEHOLDERS), ("text",))

    @field_validator("item_template")
    @classmethod
    def _check_item(cls, template: str | None) -> str | None:
        return _checked(template, ("content", "response"), ("response",))

    @field_validator("options", mode="before")
    @classmethod
    def _is_a_list(cls, options: Any) -> Any:
        if isinstance(options, str):
            raise ValueError('must be a list: write ["P1", "P2"]')
        return options

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if options is None else stored_options(options)

    @field_validator("k", "max_new_tokens", mode="before")
    @classmethod
    def _is_no_truth_value(cls, number: Any) -> Any:
        if isinstance(number, bool):
            raise ValueError("must be a whole number, not true or false")
        return number

    @field_validator("metric", "reward")
    @classmethod
    def _check_measure(cls, name: str | None) -> str | None:
        if name is not None:
            measure_of(name)
        return name

    def over(self, other: DomainEntry) -> DomainEntry:
        """This entry, with the other's values where it has none. A task of its own is also that for a chain of thought."""
        given = {name: value for name in DomainEntry.model_fields if (value := getattr(self, name)) is not None}
        if self.user_template is not None:
            given.setdefault("reasons_template", self.user_template)
        return DomainEntry.model_construct(**(dict(other) | given))

    def problem(self) -> str | None:
        """Why this entry and its kind of answer do not fit each other: `FIELD=VALUE: what is wrong and what would be right`."""
        task, options = task_of(self.options or ()), self.options or ()
        if self.ordered and len(options) < 2:
            return "ordered=true: needs at least two options, lowest first, such as options = ['P1', 'P2', 'P3']"
        for field in ("metric", "reward"):
            name: str | None = getattr(self, field)
            if name is None:
                continue
            measure = measure_of(name)
            if measure.needs_order and not self.ordered:
                return f"{field}={name!r}: needs ordered options: set options, lowest first, and ordered = true, or choose another {field}"
            if task not in measure.tasks:
                right = ", ".join(one.name for one in MEASURES.values() if task in one.tasks and (self.ordered or not one.needs_order))
                return f"{field}={name!r}: cannot score {_KINDS[task]}; use {right}, or an entry point module:callable"
        return None


_KINDS = {Task.LABEL: "labels", Task.RATING: "whole numbers", Task.TEXT: "free text, which a domain without options has"}


def _checked(template: str | None, allowed: tuple[str, ...], required: tuple[str, ...]) -> str | None:
    if template is not None:
        check_template(template, allowed, required)
    return template
