"""The examples of one measurement: SFT examples and cases for training, cases for choices, cases for evaluation.

Trajectories come from the template teacher through the teacher worker's handler, with its live checks.

Source data becomes outcomes with the steps of the running system but without a broker: base draft, embedding, retrieval, join.
Equal texts get one draft and one vector, because the persona world has many of them. Items are found by the live search, with the settings `retrieval` and
`embedder`, in an index in memory: only the user's own items of the domain with `occurred_at` before `asked_at` (docs/rules.md, 2).
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bench.train.source_data import SourceData, Split, SplitQuestion, WorldTruth
from infra.checkpoints.chat_tokenizer import ChatTokenizer
from infra.checkpoints.location import checkpoint_folder
from infra.errors import CannotContinue
from infra.settings import Settings
from schemas.contexts import HistoryItem, RetrievalStatus
from schemas.domains import BUILT_IN_DOMAINS, Domains
from schemas.drafts import Draft
from schemas.eligibility import Ineligible
from schemas.envelope import envelope_headers, read_envelope
from schemas.feedback import Feedback
from schemas.interactions import Interaction
from schemas.lookups import ItemOrder, Reads
from schemas.outcomes import Outcome
from schemas.positions import Source
from schemas.prompts import base_prompt
from schemas.queries import Query
from schemas.responses import Provenance, Response, ResponseStatus
from schemas.strategies import Strategy
from schemas.topics import INTERACTIONS, OUTCOMES
from schemas.trajectories import Trajectory
from streams.embedding.embedder import Matrix
from streams.embedding.factory import make_embedder
from streams.history.processor import text_of
from streams.index.history_index import SearchRequest
from streams.index.tenant_filter import Scope
from streams.retrieval.processor import context_of, query_text
from streams.retrieval.search import Found, HistorySearch, Wanted
from trainer.data.query_cases import QueryCase, SftExample, case_of, sft_example_key, sft_example_of
from trainer.judge.completion import completer_of, served_dtype
from trainer.learn.policy import Policy
from workers.runtime.handler import Incoming
from workers.teacher.checks import ReasoningLength
from workers.teacher.handler import TeacherHandler
from workers.teacher.template import TemplateTeacher

#: The time from a question to its feedback.
FEEDBACK_AFTER = timedelta(minutes=1)


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with its outcome. `by_query` are the items found by the query alone, for RAG baselines."""

    question: SplitQuestion
    outcome: Outcome
    by_query: tuple[HistoryItem, ...]


def make_outcomes(source: SourceData, settings: Settings, stop: threading.Event) -> list[AnsweredQuestion]:
    """One per question, in the order of the source data."""
    base_model, reads = settings.base.model, Reads(items=ItemOrder.SIMILAR, k=settings.retrieval.k_max)
    answers = drafts([question.query for question in source.questions], settings, stop)
    drafted = [
        Draft(query=question.query, answer=answers[question.query.domain, question.query.text], base_model=base_model, base_ms=0.0)
        for question in source.questions
    ]
    for_rpo = [Wanted(draft.query, Strategy.RPO, reads, query_text(draft)) for draft in drafted]
    for_rag = [Wanted(question.query, Strategy.RAG, reads, question.query.text) for question in source.questions if question.split is not Split.TRAINING]
    found = asyncio.run(_find([*for_rpo, *for_rag], source.interactions, settings))
    by_query = {wanted.query.query_id: tuple(each.items) for wanted, each in zip(for_rag, found[len(for_rpo) :], strict=True)}
    return [
        AnsweredQuestion(question, outcome_of(question, draft, each.items, settings), by_query.get(question.query.query_id, ()))
        for question, draft, each in zip(source.questions, drafted, found[: len(for_rpo)], strict=True)
    ]


def drafts(queries: Sequence[Query], settings: Settings, stop: threading.Event) -> dict[tuple[str, str], str]:
    """The greedy answer of `base.checkpoint`, by domain and text. The options of a domain are always the same."""
    checkpoint = checkpoint_folder(settings.base.checkpoint)
    base = Policy.load(checkpoint, dtype=served_dtype(settings.base.dtype, checkpoint))
    different = {(query.domain, query.text): query for query in queries}
    chat, form = ChatTokenizer(base.tokenizer), settings.base_form
    prompts = [chat.encode(base_prompt(query, form, chat.marks)) for query in different.values()]
    limits = [form.domains.max_new_tokens(query.domain, settings.base.max_new_tokens) for query in different.values()]
    completions = completer_of(settings.trainer, base, len(prompts), stop).complete(prompts, limits)
    return {key: str(base.tokenizer.decode(token_ids, skip_special_tokens=True)).strip() for key, token_ids in zip(different, completions, strict=True)}


def outcome_of(question: SplitQuestion, draft: Draft, items: Sequence[HistoryItem], settings: Settings) -> Outcome:
    """The outcome if the base answer is sent, as before any training."""
    query = question.query
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
    return Outcome.joined(response, Feedback.answering(query, question.truth, query.asked_at + FEEDBACK_AFTER))


async def _find(wanted: Sequence[Wanted], interactions: Sequence[Interaction], settings: Settings) -> list[Found]:
    """What the streams process would find."""
    embedder = make_embedder(settings.embedder)
    try:
        history = _History(interactions, await embedder.embed([text_of(interaction) for interaction in interactions]))
        return await HistorySearch(embedder, history, settings.retrieval, query_prefix=settings.embedder.query_prefix).find(wanted)
    finally:
        embedder.close()


class _History:
    """The interactions in memory: a `HistoryReader`."""

    def __init__(self, interactions: Sequence[Interaction], vectors: Matrix) -> None:
        rows: dict[tuple[Scope, str], list[int]] = defaultdict(list)
        for row in sorted(range(len(interactions)), key=lambda row: interactions[row].occurred_at):
            rows[Scope(interactions[row].tenant, interactions[row].user), interactions[row].domain].append(row)
        self._items = {key: [_item(row, interactions[row]) for row in own] for key, own in rows.items()}  # oldest first
        self._vectors = {key: vectors[own] for key, own in rows.items()}

    async def search_batch(self, requests: Sequence[SearchRequest]) -> list[list[HistoryItem]]:
        return [self._search(request) for request in requests]

    def _search(self, request: SearchRequest) -> list[HistoryItem]:
        earlier = self._before(request.scope, request.before, request.domain)
        if not earlier:
            return []
        scores = self._vectors[request.scope, request.domain][: len(earlier)] @ request.vector
        # For equal scores the newer item comes first.
        best = sorted(range(len(earlier)), key=lambda row: (-scores[row], -row))[: request.limit]
        return [earlier[row].model_copy(update={"score": float(scores[row])}) for row in best]

    async def in_time_order(self, scope: Scope, before: datetime, domain: str, limit: int, *, newest_first: bool = False) -> list[HistoryItem]:
        earlier = self._before(scope, before, domain)
        return (earlier[::-1] if newest_first else earlier)[:limit]

    def _before(self, scope: Scope, before: datetime, domain: str) -> list[HistoryItem]:
        return [item for item in self._items.get((scope, domain), ()) if item.occurred_at < before]


def _item(offset: int, interaction: Interaction) -> HistoryItem:
    return HistoryItem.of(interaction, 0.0, Source(topic=INTERACTIONS.name, partition=0, offset=offset))


@dataclass(frozen=True)
class Examples:
    """`by_query` (without training cases) and `world_truths` are by case id; `world_truths` is empty for real data."""

    title: str
    sft_examples: list[SftExample]
    training: list[QueryCase]
    dev: list[QueryCase]
    heldout: list[QueryCase]
    by_query: Mapping[str, tuple[HistoryItem, ...]]
    world_truths: Mapping[str, WorldTruth]
    counts: Mapping[str, int]
    domains: Domains = BUILT_IN_DOMAINS  # which name the metrics


def build(source: SourceData, settings: Settings, stop: threading.Event) -> Examples:
    """Splits by `schemas.ids.is_held_out` and the split of each question. Raises CannotContinue if a split is empty."""
    answered = make_outcomes(source, settings, stop)
    cases: dict[Split, list[QueryCase]] = {split: [] for split in Split}
    teachable: list[Outcome] = []
    by_query: dict[str, tuple[HistoryItem, ...]] = {}
    world_truths: dict[str, WorldTruth] = {}
    counts: Counter[str] = Counter()
    for row in answered:
        case = case_of(row.outcome)
        if isinstance(case, Ineligible):
            counts[f"unusable.{case}"] += 1
            continue
        cases[row.question.split].append(case)
        if row.question.split is not Split.TRAINING:
            by_query[case.case_id] = row.by_query
        if row.question.world_truth is not None:
            world_truths[case.case_id] = row.question.world_truth
        if row.question.split is Split.TRAINING:
            teachable.append(row.outcome)
    sft_examples = _sft_examples(teachable, source.holdout_share, settings)
    counts |= {"interactions": len(source.interactions), "lessons": len(sft_examples)} | {split.value: len(cases[split]) for split in Split}
    counts |= {f"{split.value}_users": len({case.user for case in cases[split]}) for split in Split}
    if not sft_examples or not all(cases.values()):
        raise CannotContinue(f"nothing to measure with: {dict(counts)}")
    return Examples(
        source.title, sft_examples, cases[Split.TRAINING], cases[Split.DEV], cases[Split.HELDOUT], by_query, world_truths, dict(counts), settings.entries
    )


def _sft_examples(outcomes: Sequence[Outcome], holdout_share: float, settings: Settings) -> list[SftExample]:
    trajectories = asyncio.run(_teach(outcomes, TeacherHandler(TemplateTeacher(), holdout_share, ReasoningLength.from_settings(settings.teacher))))
    examples = (sft_example_of(trajectory) for trajectory in trajectories)
    return list({sft_example_key(example): example for example in examples if not isinstance(example, Ineligible)}.values())


async def _teach(outcomes: Iterable[Outcome], instruction: TeacherHandler) -> list[Trajectory]:
    trajectories = []
    for offset, outcome in enumerate(outcomes):
        envelope = read_envelope(envelope_headers(outcome, id=outcome.outcome_id, source="/bench/train"))
        produced = await instruction(Incoming(outcome, envelope, Source(topic=OUTCOMES.name, partition=0, offset=offset)))
        trajectories += [output.message for output in produced if isinstance(output.message, Trajectory)]
    return trajectories
