"""From material to outcomes, as the running system makes them but without a broker: draft by the base, embed, retrieve, join.

Drafts and vectors are made once for each different text: the persona world repeats itself much. Retrieval keeps the live rule (docs/rules.md, 2):
the user's own items of that domain that occurred strictly before the question was asked, nearest first.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from bench.train.source_data import SourceData, Split, SplitQuestion
from infra.settings import Settings
from pico.checkpoints import BASE
from schemas.contexts import HistoryItem, RetrievalStatus, Source
from schemas.drafts import Draft
from schemas.feedback import Feedback
from schemas.ids import derive
from schemas.interactions import Interaction
from schemas.outcomes import Outcome
from schemas.prompts import base_prompt
from schemas.queries import Query, Strategy
from schemas.responses import Provenance, Response, ResponseStatus
from schemas.topics import INTERACTIONS
from streams.history.processor import text_of
from streams.index.embedder import Matrix, SentenceEmbedder
from streams.retrieval.processor import context_of, query_text
from trainer.learn.policy import Policy
from trainer.learn.rollout import SamplingOptions, generate

#: A user tells their own answer this long after they asked.
FEEDBACK_AFTER = timedelta(minutes=1)


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with what the system made of it. `by_query` are the items that the query alone finds, as baselines retrieve; they do not train."""

    ask: SplitQuestion
    outcome: Outcome
    by_query: tuple[HistoryItem, ...]


def make_outcomes(material: SourceData, settings: Settings, stop: threading.Event) -> list[AnsweredQuestion]:
    """One per question, in the material's order."""
    base_model = settings.base.model
    answers = drafts([ask.query for ask in material.asks], settings, stop)
    made = [Draft(query=ask.query, answer=answers[ask.query.domain, ask.query.text], base_model=base_model, base_ms=0.0) for ask in material.asks]
    baselines = {ask.query.query_id: ask.query.text for ask in material.asks if ask.part is not Split.TRAINING}
    texts = {text_of(done) for done in material.interactions} | {query_text(draft) for draft in made} | {*baselines.values()}
    vectors = _Vectors(sorted(texts), settings)
    history = _History(material.interactions, vectors)
    found = []
    for ask, draft in zip(material.asks, made, strict=True):
        nearest = history.nearest(ask.query, vectors[query_text(draft)], settings.retrieval.k_max)
        alone = baselines.get(ask.query.query_id)
        by_query = () if alone is None else history.nearest(ask.query, vectors[alone], settings.retrieval.k_max)
        found.append(AnsweredQuestion(ask, outcome_of(ask, draft, nearest, settings), by_query))
    return found


def drafts(queries: Sequence[Query], settings: Settings, stop: threading.Event) -> dict[tuple[str, str], str]:
    """The base's greedy answer by domain and text; a domain's options are always the same."""
    base = Policy.load(BASE)
    different = {(query.domain, query.text): query for query in queries}
    prompts = [_prompt(base, base_prompt(query, settings.base.prompt_style)) for query in different.values()]
    groups = generate(base, prompts, 1, SamplingOptions(settings.base.max_new_tokens), stop)
    return {key: str(base.tokenizer.decode(one.token_ids, skip_special_tokens=True)).strip() for key, (one,) in zip(different, groups, strict=True)}


def _prompt(policy: Policy, content: str) -> list[int]:
    text = policy.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    ids: list[int] = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def outcome_of(ask: SplitQuestion, draft: Draft, items: Sequence[HistoryItem], settings: Settings) -> Outcome:
    """What the platform would have seen when the base answer had gone out: nobody has been trained yet."""
    query = ask.query
    provenance = Provenance(
        model=None, base_model=draft.base_model, strategy=Strategy.ZERO_SHOT, k=0, history_ids=(), prompt_digest=None, base_ms=0, retrieve_ms=0, reflect_ms=0
    )
    response = Response(
        query_id=query.query_id,
        context=context_of(draft, items, settings.retrieval.k_max, RetrievalStatus.SEARCHED, retrieve_ms=0.0),
        answer=draft.answer,
        reasoning="",
        status=ResponseStatus.ZERO_SHOT,
        provenance=provenance,
        answered_at=query.asked_at,
    )
    told = Feedback(
        feedback_id=derive("feedback", query.query_id),
        query_id=query.query_id,
        tenant=query.tenant,
        user=query.user,
        truth=ask.truth,
        occurred_at=query.asked_at + FEEDBACK_AFTER,
    )
    return Outcome.joined(response, told)


class _Vectors:
    """Texts to rows of length 1."""

    def __init__(self, texts: Sequence[str], settings: Settings) -> None:
        embedder = SentenceEmbedder(settings.embedder)
        try:
            # Alike in length together: a batch costs what its longest text costs.
            order = sorted(texts, key=len)
            self.rows: Matrix = asyncio.run(embedder.embed(order, urgent=True))
        finally:
            embedder.close()
        self._place = {text: place for place, text in enumerate(order)}

    def __getitem__(self, text: str) -> Matrix:
        row: Matrix = self.rows[self._place[text]]
        return row

    def of(self, texts: Iterable[str]) -> Matrix:
        rows: Matrix = self.rows[[self._place[text] for text in texts]]
        return rows


class _History:
    """Each user's items by domain, oldest first."""

    def __init__(self, interactions: Sequence[Interaction], vectors: _Vectors) -> None:
        piles: dict[tuple[bytes, str], list[tuple[int, Interaction]]] = defaultdict(list)
        for offset, done in enumerate(interactions):
            piles[done.key, done.domain].append((offset, done))
        self._piles = {key: sorted(pile, key=lambda one: one[1].occurred_at) for key, pile in piles.items()}
        self._rows = {key: vectors.of(text_of(done) for _, done in pile) for key, pile in self._piles.items()}

    def nearest(self, query: Query, vector: Matrix, k: int) -> tuple[HistoryItem, ...]:
        key = query.key, query.domain
        earlier = [one for one in self._piles.get(key, ()) if one[1].occurred_at < query.asked_at]
        if not earlier:
            return ()
        scores = self._rows[key][: len(earlier)] @ vector
        # Of items alike in score the newer one comes first.
        best = sorted(range(len(earlier)), key=lambda place: (-scores[place], -place))[:k]
        return tuple(_item(*earlier[place], float(scores[place])) for place in best)


def _item(offset: int, done: Interaction, score: float) -> HistoryItem:
    return HistoryItem(
        interaction_id=done.interaction_id,
        content=done.content,
        response=done.response,
        occurred_at=done.occurred_at,
        score=score,
        source=Source(topic=INTERACTIONS.name, partition=0, offset=offset),
    )
