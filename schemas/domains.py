"""The domain entries of a deployment: the built-in ones, and those of the settings (`[domains.NAME]`).

A field that an entry leaves out has the value of the built-in entry of that name, then that of the kind of answer (`schemas.tasks.Task`). So a domain needs
no entry: its queries are asked and scored by the kind that their options give.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from schemas.built_in_domains import BUILT_IN, BY_TASK
from schemas.domain_entries import DomainEntry
from schemas.measures import Measure, measure_of
from schemas.queries import Query
from schemas.tasks import Task

_NOTHING = DomainEntry()


@dataclass(frozen=True, eq=False)
class Domains:
    """By domain. `configured` are those of the settings alone; they come before the built-in ones."""

    configured: Mapping[str, DomainEntry]

    @cached_property
    def _own(self) -> Mapping[str, DomainEntry]:
        """By domain, without the values that the kind of answer gives."""
        changed = {name: entry.over(BUILT_IN.get(name, _NOTHING)) for name, entry in self.configured.items()}
        return {**BUILT_IN, **changed}

    @cached_property
    def _whole(self) -> dict[tuple[str, Task], DomainEntry]:
        return {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._own)

    def own(self, domain: str) -> DomainEntry:
        """What the domain's entry itself says; nothing for a domain without one."""
        return self._own.get(domain, _NOTHING)

    def entry(self, domain: str, task: Task) -> DomainEntry:
        """With every template."""
        if domain not in self._own:
            return BY_TASK[task]
        if (domain, task) not in self._whole:
            self._whole[domain, task] = self._own[domain].over(BY_TASK[task])
        return self._whole[domain, task]

    def completed(self, query: Query) -> Query:
        """The query with its domain's options, if it names none. Of a domain with ordered options, options that it names itself are put in that order."""
        own = self.own(query.domain)
        if not own.options or (query.options and not own.ordered):
            return query
        options = own.options if not query.options else _in_order(query.options, own.options)
        return query if options == query.options else query.model_copy(update={"options": options})

    def metric(self, domain: str, task: Task) -> Measure:
        """The measure of reports and of the gate. An entry's own counts for the kinds of answers that it can score."""
        return self._measure(self.own(domain).metric, task)

    def reward(self, domain: str, task: Task) -> Measure:
        """The measure of reinforcement learning and of online quality."""
        own = self.own(domain)
        return self._measure(own.reward or own.metric, task)

    def k(self, domain: str, default: int) -> int:
        """History items in a prompt."""
        return self.own(domain).k or default

    def max_new_tokens(self, domain: str, default: int) -> int:
        """Of one answer of the base model."""
        return self.own(domain).max_new_tokens or default

    def problems(self) -> list[str]:
        """What cannot work, each with its key, such as `domains.email_reply.metric`."""
        return [f"domains.{name}.{problem}" for name in self.configured if (problem := self.own(name).problem())]

    @cached_property
    def digest(self) -> str:
        """sha256 of the settings' entries: deployments with the same digest ask and score in the same way. Empty without such entries."""
        if not self.configured:
            return ""
        entries = {name: entry.model_dump(mode="json", exclude_defaults=True) for name, entry in self.configured.items()}
        return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()

    def _measure(self, name: str | None, task: Task) -> Measure:
        measure = measure_of(name) if name else None
        return measure if measure and task in measure.tasks else measure_of(BY_TASK[task].metric or "")


#: Without entries of the settings.
BUILT_IN_DOMAINS = Domains({})


def _in_order(options: tuple[str, ...], scale: tuple[str, ...]) -> tuple[str, ...]:
    """The options in the scale's order; as they are if one of them is not on the scale."""
    return tuple(option for option in scale if option in options) if set(options) <= set(scale) else options
