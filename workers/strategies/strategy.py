"""The interface of a strategy's method: what it reads of the user, what it asks the base model, and how it reads the texts.

The parts are called in this order: `reads` and `first_lookup` (the lookup), `with_model`, `prepare`, `prompts`, `read`. A method need not have
`first_lookup`, `with_model` and `prepare`. `with_model` and `prepare` are cancelled after half of the time until the query's deadline, and `prepare` also
after `base.timeout_s`. A method that has a simpler strategy is cancelled `strategies.deadline_reserve_s` before the deadline.
A method that cannot answer raises Unable; a cancelled one ends in the same way. Then its simpler strategy answers, from the same retrieval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from schemas.contexts import HistoryItem, RetrievalStatus
from schemas.drafts import FailureCause
from schemas.lookups import Lookup, Reads, Retrieval
from schemas.prompts import ChatTurn
from schemas.queries import Query
from schemas.responses import ModelVersion, ProfileParts, ResponseStatus
from schemas.strategies import Strategy
from workers.strategies.base_calls import BaseCalls

T = TypeVar("T")


class Unable(Exception):
    """The method cannot answer this query. `status` says why."""

    def __init__(self, status: ResponseStatus) -> None:
        super().__init__(status)
        self.status = status

    @classmethod
    def without(cls, missing: ResponseStatus, found: Retrieval | None) -> Unable:
        """`missing`, unless the history was not searched: then nothing is known about the user, and the reason is why it was not."""
        return cls(_NOT_READ.get(found.status, missing) if found else missing)

    @classmethod
    def without_profile(cls, missing: ResponseStatus, found: Retrieval | None) -> Unable:
        """`missing`, unless the profile was not read: then the reason is why it was not."""
        return cls.without(_NOT_READ.get(found.profile, missing) if found else missing, found)

    @classmethod
    def refused(cls, cause: str) -> Unable:
        """The base model gives no answer to a prompt with the user's data. `cause`: that of `PromptRefused`."""
        return cls(_REFUSED.get(cause, ResponseStatus.PROMPT_REFUSED))


_NOT_READ = {RetrievalStatus.INDEX_AWAY: ResponseStatus.INDEX_AWAY, RetrievalStatus.DEADLINE_PASSED: ResponseStatus.DEADLINE_NEAR}
#: By failure cause. What cannot be read was written by the base model; all other causes concern the prompt.
_REFUSED: Mapping[str, ResponseStatus] = {
    FailureCause.PROMPT_TOO_LONG: ResponseStatus.PROMPT_TOO_LONG,
    **dict.fromkeys((FailureCause.NO_TEXT, FailureCause.ONLY_REASONING, FailureCause.ANSWER_TOO_LONG), ResponseStatus.UNPARSABLE),
}


@dataclass(frozen=True)
class Prompt:
    """One request to the base model. `shown` are the history items in it, best first."""

    turns: tuple[ChatTurn, ...]
    max_tokens: int
    shown: tuple[HistoryItem, ...] = ()
    n: int = 1  # number of texts
    temperature: float | None = None  # None: 0, or that of base.parameters
    template: str | None = None  # digest of its template; None: that of `schemas.prompts`
    profile: ProfileParts | None = None  # what it holds of the user's profile


@dataclass(frozen=True)
class Answer:
    """`reasoning` is what the model wrote before the answer."""

    text: str
    reasoning: str = ""


def halved(items: Sequence[T]) -> Iterator[tuple[T, ...]]:
    """All items, then the first half of them, and so on down to one. For an endpoint that refuses a prompt as too long."""
    while items:
        yield tuple(items)
        items = items[: len(items) // 2]


class Method(Protocol):
    """How one strategy answers. It has no state of a query."""

    @property
    def strategy(self) -> Strategy: ...

    def reads(self, query: Query) -> Reads | None:
        """What the lookup asks for; None if the base model is asked first."""

    def prompts(self, query: Query, found: Retrieval | None) -> Iterator[Prompt]:
        """The prompt, then shorter ones for an endpoint that refuses it as too long. Raises Unable, for example without history."""

    async def read(self, query: Query, prompt: Prompt, texts: Sequence[str]) -> Answer | None:
        """The answer in the base model's texts, of which there is at least one. None: unreadable, so the simpler strategy answers."""


@runtime_checkable
class CompletesLookup(Protocol):
    """A method whose first lookup holds more than what the method reads, such as the query's features."""

    async def first_lookup(self, lookup: Lookup) -> Lookup:
        """The lookup that is sent instead. It asks no model."""


@runtime_checkable
class Prepares(Protocol):
    """A method with a step between retrieval and prompt, such as reranking."""

    async def prepare(self, found: Retrieval, base: BaseCalls) -> Retrieval | Lookup:
        """What `prompts` gets instead of `found`, or another lookup of this query, with the next `step`; its retrieval comes back to `prepare`.

        Raises Unable, and what `BaseCalls.texts` raises.
        """


@runtime_checkable
class NeedsModel(Protocol):
    """A method that a registered model takes part in, such as a reranker."""

    async def with_model(self) -> tuple[Method, ModelVersion]:
        """The method for one answer, with the version that is loaded now. Raises Unable without one."""
