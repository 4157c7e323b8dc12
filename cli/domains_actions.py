"""Work of `retouch domains`. The prompts are made by the code of the workers, from the same settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from cli.prompt_tokens import PromptTokens
from infra.errors import BadSetting
from infra.process.command_output import printable, show, show_json, show_table
from infra.settings import Settings
from schemas.contexts import HistoryItem
from schemas.domains import Domains
from schemas.field_errors import field_errors
from schemas.lookups import ItemOrder, Lookup, Reads, Retrieval
from schemas.positions import Source
from schemas.profiles import Summary
from schemas.prompts import ChatTurn, reflection_prompt
from schemas.queries import Query
from schemas.strategies import Strategy, StrategyChoice
from schemas.tasks import task_of
from workers.reflection.reflector import shown_items
from workers.strategies.catalog import methods_of

#: Of an `--item`.
SEPARATOR = " => "
SUMMARY = "(the summary of the user's history)"
#: RPM's prompts need factors of the user. RPO asks the base model as zero-shot does, and then the reflection model.
LEFT_OUT = {Strategy.RPM, Strategy.RPO}


@dataclass(frozen=True)
class Asked:
    """The arguments of `domains show`. `items`: `content => response`, best first."""

    domain: str
    text: str
    options: tuple[str, ...]
    items: tuple[str, ...]
    draft: str


@dataclass(frozen=True)
class ShownPrompt:
    """What one model is asked. `tokens`: inside its chat template; None if its tokenizer is not known."""

    strategies: tuple[str, ...]
    model: str
    turns: tuple[ChatTurn, ...]
    max_new_tokens: int
    tokens: int | None

    def as_data(self) -> dict[str, Any]:
        turns = [turn._asdict() for turn in self.turns]
        return {"strategies": self.strategies, "model": self.model, "tokens": self.tokens, "max_new_tokens": self.max_new_tokens, "turns": turns}


def list_domains(settings: Settings, as_json: bool) -> None:
    entries = settings.entries
    rows = [_facts(settings, entries, name) for name in entries.names]
    if as_json:
        show_json({"domains": rows})
        return
    columns = ("domain", "from", "kind", "options", "metric", "reward", "k", "max_new_tokens", "rewrite_tokens")
    show_table(columns, [[_cell(row[name]) for name in columns] for row in rows])


def show_domain(settings: Settings, asked: Asked, as_json: bool) -> None:
    """Raises BadSetting for arguments that no query can have."""
    tokens = PromptTokens.of(settings)
    query = settings.entries.completed(_query(settings, asked))
    items = _items(asked, query, settings)
    prompts = [*_base_prompts(settings, query, items, tokens), _reflection(settings, query, items, asked.draft, tokens)]
    facts = _facts(settings, settings.entries, asked.domain, query.options)
    if as_json:
        show_json(facts | {"prompts": [prompt.as_data() for prompt in prompts]})
        return
    show_table(("", ""), [(name, _cell(value)) for name, value in facts.items()])
    for prompt in prompts:
        show(f"\n=== {prompt.model}, {_tokens(prompt)}: {', '.join(prompt.strategies)}")
        for turn in prompt.turns:
            show(f"--- {turn.role}\n{printable(turn.content)}")


def _facts(settings: Settings, entries: Domains, name: str, options: Sequence[str] | None = None) -> dict[str, Any]:
    """`options`: of a query; None: those of the entry."""
    own = entries.own(name)
    options = list(own.options or ()) if options is None else list(options)
    task = task_of(options)
    return {
        "domain": name,
        "from": "settings" if name in settings.domains else "built in" if name in entries.names else "no entry",
        "kind": f"{task}, ordered" if own.ordered else str(task),
        "options": options,
        "metric": entries.metric(name, task).name,
        "reward": entries.reward(name, task).name,
        "k": entries.k(name, settings.reflection.k),
        "sft_k": _span(settings.trainer.sft.items(name, entries)),
        "rl_k": _span(settings.trainer.rl.items(name, entries)),
        "max_new_tokens": entries.max_new_tokens(name, settings.base.max_new_tokens),
        "rewrite_tokens": settings.rewrite_limits.rewrite(name),
    }


def _query(settings: Settings, asked: Asked) -> Query:
    now = datetime.now(UTC)
    try:
        return Query(query_id=uuid4(), tenant=settings.tenant, user="example", domain=asked.domain, text=asked.text, options=asked.options, asked_at=now)
    except ValidationError as error:
        raise BadSetting(field_errors(error)) from None


def _items(asked: Asked, query: Query, settings: Settings) -> tuple[HistoryItem, ...]:
    """As many made-up items as a search returns, if the arguments name none."""
    pairs = [item.partition(SEPARATOR) for item in asked.items]
    for number, (_, separator, response) in enumerate(pairs):
        if not separator or not response.strip():
            raise BadSetting(f"--item {number + 1}: write it as `content{SEPARATOR}response`")
    given = [(content, response) for content, _, response in pairs]
    answers = query.options or ("(the user's answer)",)
    given = given or [(f"(past item {number})", answers[number % len(answers)]) for number in range(settings.retrieval.k_max)]
    source = Source(topic="interactions", partition=0, offset=0)
    return tuple(
        HistoryItem(interaction_id=uuid4(), content=content, response=response, occurred_at=query.asked_at, score=0.0, source=source)
        for content, response in given
    )


def _base_prompts(settings: Settings, query: Query, items: tuple[HistoryItem, ...], tokens: PromptTokens) -> list[ShownPrompt]:
    """Of the strategies, those with the same prompt together."""
    found = []
    for strategy, method in methods_of(settings).items():
        if strategy in LEFT_OUT:
            continue
        lookup = Lookup(query=query, choice=StrategyChoice(strategy=strategy), reads=method.reads(query) or Reads(items=ItemOrder.SIMILAR, k=0))
        summary = Summary(text=SUMMARY, count=len(items), until=query.asked_at)
        prompt = next(method.prompts(query, Retrieval(lookup=lookup, items=items[: lookup.reads.k], retrieve_ms=0.0, summary=summary)))
        found.append((str(strategy), prompt.turns, prompt.max_tokens))
    found = [("rpo", *found[0][1:]), *found]  # zero-shot's
    shown = []
    for (turns, limit), same in groupby(sorted(found, key=lambda one: (one[1], one[2])), key=lambda one: one[1:]):
        shown.append(ShownPrompt(tuple(name for name, *_ in same), f"base model {settings.base.model}", turns, limit, tokens.of_base(turns)))
    order = [name for name, *_ in found]
    return sorted(shown, key=lambda prompt: order.index(prompt.strategies[0]))


def _reflection(settings: Settings, query: Query, items: Sequence[HistoryItem], draft: str, tokens: PromptTokens) -> ShownPrompt:
    form, limits = settings.reflection_form, settings.rewrite_limits

    def prompt(shown: Sequence[HistoryItem]) -> str:
        return reflection_prompt(query, draft, shown, form, tokens.reflection_marks)

    k, room = form.domains.k(query.domain, settings.reflection.k), limits.prompt(query.domain)
    shown = shown_items(items, k, lambda some: (tokens.of_reflection(prompt(some)) or 0) <= room)
    asked = prompt(shown)
    return ShownPrompt(("rpo",), "reflection model", (ChatTurn("user", asked),), limits.rewrite(query.domain), tokens.of_reflection(asked))


def _tokens(prompt: ShownPrompt) -> str:
    asked = "an unknown number of tokens" if prompt.tokens is None else f"{prompt.tokens} tokens"
    return f"{asked}, at most {prompt.max_new_tokens} back"


def _span(bounds: tuple[int, int]) -> str:
    low, high = bounds
    return str(low) if low == high else f"{low} to {high}"


def _cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
