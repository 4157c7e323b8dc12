"""Queries: a user's questions, which get personal answers."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated
from uuid import UUID

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from schemas.ids import Identifier, record_key
from schemas.messages import MAX_LABEL_CHARS, OWN_ID, AwareDatetime, Domain, Label, Message, MessageIdentity, Text
from schemas.positions import Source
from schemas.sameness import normalized, visible
from schemas.strategies import Strategy
from schemas.tasks import Task, task_of


class Query(Message, wire="retouch.query", version=1):
    """A question of one user. Topic: queries. Key: tenant/user.

    A query without options gets those of its domain's entry; without such an entry the answer is free text.
    Options are stored in NFC, without invisible characters, with single spaces. A query is refused if an option is blank, or if two are the same text with
    the same quotes (`schemas.sameness.normalized`): no answer could choose between them. A query inside a draft, context, response or outcome is not
    checked: stored messages stay readable.
    """

    query_id: UUID = Field(description=OWN_ID)
    tenant: Identifier
    user: Identifier
    domain: Domain
    text: Text = Field(description="the task's input without a prompt: a description, a review, an abstract")
    options: Annotated[
        tuple[Label, ...], Field(max_length=256, description="the answers allowed; empty: those of the domain's entry, or free text without one")
    ] = ()
    asked_at: AwareDatetime = Field(description="event time; only earlier history is used")
    deadline: AwareDatetime | None = Field(
        default=None,
        description="wall clock; shortly before it a simpler answer goes out, such as the base answer, and at it an empty one if there is none. null: no limit",
    )
    strategy: Strategy | None = Field(default=None, description="null: the deployment's, by the setting strategies.weights")
    after: Source | None = Field(
        default=None,
        description="an event of this user's history, as the broker confirmed it: the search waits a bounded time until it is indexed. null: it does not wait",
    )

    @field_validator("options")
    @classmethod
    def _options_differ(cls, options: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.context and info.context.get("message") is not cls:  # the query is part of a stored message
            return options
        return stored_options(options)

    @property
    def key(self) -> bytes:
        return record_key(self.tenant, self.user)

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.query_id)

    @property
    def task(self) -> Task:
        return task_of(self.options)

    def external_content(self) -> bytes:
        """With the options in the form that a new query gets: a stored message with another form of them has the same content as its query."""
        return super(Query, self.model_copy(update={"options": tuple(map(_stored_form, self.options))})).external_content()


def stored_options(options: tuple[str, ...]) -> tuple[str, ...]:
    """The options in the form of a stored query. Raises PydanticCustomError for a blank one, a long one, and two that are the same text."""
    options = tuple(map(_stored_form, options))
    positions: dict[str, int] = {}
    for position, option in enumerate(options):
        form = normalized(option, keep_quotes=True)
        if not form:
            raise PydanticCustomError(f"blank_option_{position}", f"option {position} is blank; give each option a visible text")
        if len(option) > MAX_LABEL_CHARS:
            raise PydanticCustomError(f"long_option_{position}", f"option {position} has more than {MAX_LABEL_CHARS} characters in NFC")
        if (first := positions.setdefault(form, position)) != position:
            raise PydanticCustomError(f"same_options_{first}_and_{position}", f"options {first} and {position} are the same text; give each option once")
    return options


@lru_cache(maxsize=4096)
def _stored_form(option: str) -> str:
    return " ".join(visible(option).split())
