"""HYDRA's training rows: text pairs with labels, made by asking the base model about a user's own past.

- Reranker: for each pseudo-query the top items by BM25, and one answer for each item, with it as the only demonstration, at temperature 0. The label is 1 if
  the answer has the full score by the reward of its domain, or a score above the mean over the user's rows of that domain.
- Scorer: for each pseudo-query several candidates at temperature 1, with the best reranked items as demonstrations. A candidate with options is 1 if it has
  the full score; candidates of free texts are 0 and the user's own text is added once as 1. A candidate that is the user's own text is left out there.

Every item that is shown is from before its pseudo-query. A question that the base model refuses gives no row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from infra.hydra.pairs import Pair, reranked_text
from infra.ranking.bm25 import corpus_text, rank
from infra.settings.hydra import HydraSettings
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.demonstrations import demonstration_turns
from schemas.prompts import ChatTurn, PromptForm, base_prompt
from schemas.queries import Query
from schemas.tasks import Task
from trainer.hydra.asking import Ask, Question, ask_all
from trainer.hydra.histories import PastItem, PseudoQuery
from trainer.hydra.labels import FULL, helped, is_truth, score

#: Positions of items in the order of the reranker: user (`tenant/user`), query text, items.
Rerank = Callable[[str, str, Sequence[PastItem]], Sequence[int]]


@dataclass(frozen=True)
class Row:
    """One training example. `user` is `tenant/user`; `asked_at` is the time of its pseudo-query."""

    user: str
    pair: Pair
    label: int  # 0 or 1
    asked_at: datetime


@dataclass(frozen=True)
class BlackBox:
    """The base model with what its prompts need."""

    ask: Ask
    form: PromptForm
    max_tokens: int  # of one answer, in domains without `max_new_tokens`
    concurrency: int
    stop: threading.Event

    def answers(self, questions: Sequence[Question]) -> Iterator[Sequence[str]]:
        return ask_all(self.ask, questions, self.concurrency, self.stop)

    def question(self, query: Query, turns: tuple[ChatTurn, ...], n: int, temperature: float) -> Question:
        return Question(turns, n, temperature, self.form.domains.max_new_tokens(query.domain, self.max_tokens))

    def turns(self, pseudo: PseudoQuery, items: Sequence[PastItem]) -> tuple[ChatTurn, ...]:
        return demonstration_turns(pseudo.query, items, self.form, WELL_KNOWN_MARKS)


@dataclass(frozen=True)
class _Shown:
    """A pseudo-query with one retrieved item."""

    pseudo: PseudoQuery
    item: PastItem


def retrieved(pseudo: PseudoQuery, limit: int) -> list[PastItem]:
    """The top earlier items by BM25, as the retriever `bm25` finds them for a query: best first; of equal scores, the later item first."""
    ranking = rank(pseudo.query.text, [corpus_text(item, pseudo.query.task) for item in pseudo.earlier], limit)
    return [pseudo.earlier[ranked.position] for ranked in ranking]


def reranker_rows(pseudos: Sequence[PseudoQuery], box: BlackBox, settings: HydraSettings) -> list[Row]:
    """The reranker's rows, in order of pseudo-queries and of their items by BM25. Blocks for the base model."""
    shown = [_Shown(pseudo, item) for pseudo in pseudos for item in retrieved(pseudo, settings.retrieved)]
    questions = [box.question(one.pseudo.query, box.turns(one.pseudo, [one.item]), 1, 0.0) for one in shown]
    answered = [(one, answers[0]) for one, answers in zip(shown, box.answers(questions), strict=True) if answers]
    scores = [_score(one.pseudo, answer, box) for one, answer in answered]
    labels = helped(scores, [(one.item.user, one.pseudo.query.domain) for one, _ in answered])
    return [
        Row(one.item.user, Pair(one.pseudo.query.text, reranked_text(one.item, settings.item_text)), label, one.pseudo.query.asked_at)
        for (one, _), label in zip(answered, labels, strict=True)
    ]


def scorer_rows(pseudos: Sequence[PseudoQuery], box: BlackBox, rerank: Rerank, settings: HydraSettings) -> list[Row]:
    """The scorer's rows, in order of pseudo-queries. Blocks for the base model."""
    questions = [
        box.question(pseudo.query, box.turns(pseudo, _demonstrations(pseudo, rerank, settings)), settings.candidates, settings.temperature)
        for pseudo in pseudos
    ]
    return [row for pseudo, candidates in zip(pseudos, box.answers(questions), strict=True) for row in _candidate_rows(pseudo, candidates, box)]


def _demonstrations(pseudo: PseudoQuery, rerank: Rerank, settings: HydraSettings) -> list[PastItem]:
    items = retrieved(pseudo, settings.retrieved)
    return [items[position] for position in rerank(pseudo.item.user, pseudo.query.text, items)[: settings.demonstrations]]


def _score(pseudo: PseudoQuery, answer: str, box: BlackBox) -> float:
    return score(answer, pseudo.truth, pseudo.query, box.form.domains)


def _candidate_rows(pseudo: PseudoQuery, candidates: Sequence[str], box: BlackBox) -> list[Row]:
    if not candidates:
        return []
    if pseudo.item.task is Task.TEXT:
        labelled = [(candidate, 0) for candidate in candidates if not is_truth(candidate, pseudo.truth)] + [(pseudo.truth, 1)]
    else:
        labelled = [(candidate, int(_score(pseudo, candidate, box) == FULL)) for candidate in candidates]
    prompt = base_prompt(pseudo.query, box.form, WELL_KNOWN_MARKS)
    return [Row(pseudo.item.user, Pair(prompt, candidate), label, pseudo.query.asked_at) for candidate, label in labelled]
