"""Profiles: what a model or a template writes about one user, from the user's own history. Model text never enters the history (docs/rules.md, 1).

The streams process publishes a task when a strategy needs an entry that is missing or old. The profiles worker does it and publishes the entry, which the
streams process stores. A user has profiles in the domains only in which a strategy reads them.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, StringConstraints

from schemas.contexts import HistoryItem
from schemas.features import FactoredFeature, ItemFeatures, UserFactors
from schemas.ids import Identifier, derive, record_key
from schemas.messages import AwareDatetime, Domain, Message, MessageIdentity, Record, Text
from schemas.positions import Source
from schemas.tasks import Task

Count = Annotated[int, Field(ge=0)]


class ProfileKind(StrEnum):
    SUMMARY = "summary"
    FEATURES = "features"  # of one item
    REASONING = "reasoning"  # of one item with features


class SummaryWork(Record):
    """Summarize the user's items of one domain (PAG)."""

    kind: Literal[ProfileKind.SUMMARY] = ProfileKind.SUMMARY
    task: Task
    items: Annotated[tuple[HistoryItem, ...], Field(min_length=1)]  # drawn at random; the seed is the task's id
    count: Count  # all items of the user and domain up to `until`
    until: AwareDatetime  # `occurred_at` of the newest of them


class FeaturesWork(Record):
    """Find the features of one item (RPM)."""

    kind: Literal[ProfileKind.FEATURES] = ProfileKind.FEATURES
    task: Task
    item: HistoryItem  # with a response


class ReasoningWork(Record):
    """Write the reasoning that leads from an item's features to its response (RPM)."""

    kind: Literal[ProfileKind.REASONING] = ProfileKind.REASONING
    task: Task
    item: ItemFeatures
    features: tuple[FactoredFeature, ...]  # those of the item, with their factors
    factors: UserFactors  # from the item and those before it; at least those that a prompt shows


Work = Annotated[SummaryWork | FeaturesWork | ReasoningWork, Field(discriminator="kind")]


class Summary(Record):
    """A summary of the user's items of one domain up to `until`. It answers only queries asked later (docs/rules.md, 2)."""

    kind: Literal[ProfileKind.SUMMARY] = ProfileKind.SUMMARY
    text: Text
    count: Count
    until: AwareDatetime


class ExtractedFeatures(Record):
    """An item with its features. It answers only queries asked later than the item."""

    kind: Literal[ProfileKind.FEATURES] = ProfileKind.FEATURES
    task: Task
    item: ItemFeatures
    source: Source  # of the item in the log

    @property
    def until(self) -> datetime:
        return self.item.occurred_at


class Reasoning(Record):
    """The reasoning path of one item."""

    kind: Literal[ProfileKind.REASONING] = ProfileKind.REASONING
    interaction_id: UUID
    text: Text
    statistics_version: str  # of the UserFactors that it cites
    until: AwareDatetime  # `occurred_at` of the item


Content = Annotated[Summary | ExtractedFeatures | Reasoning, Field(discriminator="kind")]


class Author(Record):
    """What wrote an entry."""

    name: str  # `template` or `llm`
    model: str | None = None  # the LLM's
    prompt_digest: Annotated[str, StringConstraints(max_length=64)] | None = None  # sha256 of the LLM's prompt templates


class ProfileTask(Message, wire="retouch.profile-task", version=1):
    """Work on one user's profile. Topic: profile-tasks. Key: tenant/user."""

    task_id: UUID
    tenant: Identifier
    user: Identifier
    domain: Domain
    work: Work

    @classmethod
    def summary(cls, tenant: str, user: str, domain: str, work: SummaryWork) -> Self:
        """The task of summarizing `work.count` items: the same task each time."""
        task_id = summary_id(tenant, user, domain, work.count)
        return cls(task_id=task_id, tenant=tenant, user=user, domain=domain, work=work)

    @classmethod
    def features(cls, tenant: str, user: str, domain: str, work: FeaturesWork, extractor: str) -> Self:
        """The task of finding an item's features: the same task each time for the same kind of extractor."""
        task_id = derive("features", tenant, user, work.item.interaction_id, extractor)
        return cls(task_id=task_id, tenant=tenant, user=user, domain=domain, work=work)

    @classmethod
    def reasoning(cls, tenant: str, user: str, domain: str, work: ReasoningWork) -> Self:
        """The task of writing an item's reasoning path: one for each item."""
        task_id = reasoning_id(tenant, user, work.item.interaction_id)
        return cls(task_id=task_id, tenant=tenant, user=user, domain=domain, work=work)

    @property
    def key(self) -> bytes:
        return record_key(self.tenant, self.user)

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.task_id)

    def external_content(self) -> bytes:
        """The id alone: a task that is published again may hold other items."""
        return self.task_id.bytes


class ProfileEntry(Message, wire="retouch.profile-entry", version=1):
    """A finished task. Topic: profiles. Key: tenant/user."""

    entry_id: UUID  # that of the task
    tenant: Identifier
    user: Identifier
    domain: Domain
    content: Content
    author: Author

    @property
    def key(self) -> bytes:
        return record_key(self.tenant, self.user)

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.entry_id)

    def external_content(self) -> bytes:
        return self.entry_id.bytes


def summary_id(tenant: str, user: str, domain: str, count: int) -> UUID:
    return derive("summary", tenant, user, domain, count)


def reasoning_id(tenant: str, user: str, interaction_id: UUID) -> UUID:
    """Id of the task and of its entry."""
    return derive("reasoning", tenant, user, interaction_id)
