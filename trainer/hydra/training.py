"""Trains a HYDRA checkpoint from the histories of users, and adds heads for users who did not train its encoders.

Order: the reranker's rows, the reranker, then the scorer's rows, whose prompts hold the items that the reranker puts first, then the scorer.
A new user needs the base model's answers about its own history and two heads; encoders and all other heads stay as they are.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch

from infra.errors import CannotContinue
from infra.hydra.checkpoint import HeadMap, HydraCheckpoint, Part, user_digest
from infra.hydra.encoder import load_encoder
from infra.hydra.model import ranked, read_pairs, rerank_pairs
from infra.hydra.network import SHARED, HydraNetwork, UserHeads
from infra.hydra.pairs import PairEncoder
from infra.settings.hydra import HydraSettings
from schemas.outcomes import Outcome
from trainer.data.snapshot import Snapshot
from trainer.hydra.fit import Fit, FitResult
from trainer.hydra.histories import PastItem, PseudoQuery, before, histories_of, pseudo_queries
from trainer.hydra.rows import BlackBox, Rerank, Row, reranker_rows, scorer_rows

log = logging.getLogger(__name__)

Histories = Mapping[str, Sequence[PastItem]]


@dataclass(frozen=True)
class HydraTraining:
    """One training, with its settings, seed and base model. Stored states go to `directory`."""

    settings: HydraSettings
    box: BlackBox
    seed: int
    directory: Path | None = None

    def train(self, histories: Histories) -> tuple[HydraCheckpoint, dict[Part, FitResult]]:
        """Both networks, trained on the rows of `settings.users` users. Blocks for the base model and for the training.

        Raises CannotContinue if no user has rows, Interrupted on a stop, and what the base model raises.
        """
        pseudos = self.pseudo_queries(encoder_users(histories, self.settings.users))
        reranker = self._network(Part.RERANKER, reranker_rows(pseudos, self.box, self.settings))
        rerank = _reranking(reranker.network, reranker.encode, reranker.heads, self.settings)
        scorer = self._network(Part.SCORER, scorer_rows(pseudos, self.box, rerank, self.settings))
        heads = HeadMap(
            max_length=self.settings.max_length, item_text=self.settings.item_text, reranker=_digests(reranker.heads), scorer=_digests(scorer.heads)
        )
        networks = {Part.RERANKER: reranker.network, Part.SCORER: scorer.network}
        return HydraCheckpoint(networks, reranker.tokenizer, heads), {Part.RERANKER: reranker.result, Part.SCORER: scorer.result}

    def train_snapshot(self, snapshot: Snapshot) -> tuple[HydraCheckpoint, dict[Part, FitResult]]:
        """Train on the offset ranges of a training run, and add heads for all other users of the snapshot.

        Held-out users never train an encoder or the shared head. Their heads are fitted on what they did before the first question that judges.
        """
        training, heldout = _histories(snapshot)
        checkpoint, results = self.train(training)
        encoding = encoder_users(training, self.settings.users)
        others = {user: history for user, history in training.items() if user not in encoding}
        return self.with_heads(checkpoint, {**others, **heldout}), results

    def extend(self, checkpoint: HydraCheckpoint, snapshot: Snapshot) -> HydraCheckpoint:
        """The checkpoint with heads for the users of the snapshot that have none. Raises CannotContinue if no user gets one, and what `with_heads` raises."""
        training, heldout = _histories(snapshot)
        known = set(checkpoint.heads.reranker) | set(checkpoint.heads.scorer)
        extended = self.with_heads(checkpoint, {user: history for user, history in {**training, **heldout}.items() if user_digest(user) not in known})
        if extended.heads == checkpoint.heads:
            raise CannotContinue(f"no new user has hydra.min_rows={self.settings.min_rows} rows, and hydra.retrain_outcomes are not there yet")
        return extended

    def with_heads(self, checkpoint: HydraCheckpoint, histories: Histories) -> HydraCheckpoint:
        """The checkpoint with fresh heads for these users, fitted on their own histories; the encoders are frozen. Replaces heads that they have.

        Users with fewer than `min_rows` rows stay with the shared head. Blocks for the base model, and seconds for the fit.
        """
        pseudos = self.pseudo_queries(histories)
        with_rerankers = self._fitted(checkpoint, Part.RERANKER, reranker_rows(pseudos, self.box, self.settings))
        rerank = _reranking(with_rerankers.networks[Part.RERANKER], checkpoint.pairs, _rows_of(with_rerankers, histories), self.settings)
        return self._fitted(with_rerankers, Part.SCORER, scorer_rows(pseudos, self.box, rerank, self.settings))

    def pseudo_queries(self, histories: Histories) -> list[PseudoQuery]:
        """Those of all users, in order of users."""
        return [pseudo for _, history in sorted(histories.items()) for pseudo in pseudo_queries(history, self.settings.queries_per_user, self.seed)]

    def _network(self, part: Part, rows: Sequence[Row]) -> _Trained:
        heads = {user: row for row, user in enumerate(_with_enough_rows(rows, self.settings.min_rows), SHARED + 1)}
        if not heads:
            raise CannotContinue(f"HYDRA's {part} has no user with hydra.min_rows={self.settings.min_rows} rows; it needs more history")
        torch.manual_seed(self.seed)
        model, tokenizer = load_encoder(self.settings)
        network, encode = HydraNetwork.over(model, SHARED + 1 + len(heads)), PairEncoder(tokenizer, self.settings.max_length)
        used = [row for row in rows if row.user in heads]
        log.info("training", extra={"network": part, "rows": len(used), "users": len(heads), "positive": sum(row.label for row in used)})
        return _Trained(network, encode, tokenizer, heads, self._fit(part).train(network, encode, used, heads))

    def _fitted(self, checkpoint: HydraCheckpoint, part: Part, rows: Sequence[Row]) -> HydraCheckpoint:
        users = set(_with_enough_rows(rows, self.settings.min_rows))
        used = [row for row in rows if row.user in users]
        fitted = self._fit(None).heads(checkpoint.networks[part], checkpoint.pairs, used, self.settings.new_heads)
        return with_fitted(checkpoint, part, fitted)

    def _fit(self, part: Part | None) -> Fit:
        return Fit(self.settings, self.seed, self.box.stop, self.directory / part if self.directory and part else None)


@dataclass(frozen=True)
class _Trained:
    network: HydraNetwork
    encode: PairEncoder
    tokenizer: object
    heads: Mapping[str, int]  # user -> row
    result: FitResult


def _histories(snapshot: Snapshot) -> tuple[Histories, Histories]:
    """Of training users, and of held-out users from before the first question that judges them."""
    training, heldout = (histories_of(snapshot.outcomes(held_out=held_out)) for held_out in (False, True))
    judged_from = first_questions(snapshot.outcomes(held_out=True))
    return training, {user: before(history, judged_from[user]) for user, history in heldout.items()}


def first_questions(outcomes: Iterable[Outcome]) -> dict[str, datetime]:
    """When each user (`tenant/user`) asked the first of these questions."""
    first: dict[str, datetime] = {}
    for outcome in outcomes:
        user, asked_at = outcome.key.decode(), outcome.response.context.draft.query.asked_at
        first[user] = min(asked_at, first.get(user, asked_at))
    return first


def encoder_users(histories: Histories, limit: int) -> dict[str, Sequence[PastItem]]:
    """The users whose rows train the encoders: those with most items; of equal numbers, by their digest."""
    chosen = sorted(histories, key=lambda user: (-len(histories[user]), user_digest(user)))[:limit]
    return {user: histories[user] for user in sorted(chosen)}


def with_fitted(checkpoint: HydraCheckpoint, part: Part, fitted: Mapping[str, UserHeads]) -> HydraCheckpoint:
    """A checkpoint whose stacked heads of one network hold the fitted ones too. The given checkpoint is not changed."""
    old, rows = checkpoint.networks[part], dict(checkpoint.heads.rows(part))
    for user in sorted(fitted):
        rows.setdefault(user_digest(user), len(rows) + 1)
    heads = UserHeads(SHARED + 1 + len(rows), old.heads.width, old.heads.dropout.p)
    with torch.no_grad():
        for name, parameter in heads.named_parameters():
            parameter[: old.heads.count] = old.heads.get_parameter(name)
            for user, head in fitted.items():
                parameter[rows[user_digest(user)]] = head.get_parameter(name)[0]
    networks = {**checkpoint.networks, part: HydraNetwork(old.encoder, heads).eval()}
    return replace(checkpoint, networks=networks, heads=checkpoint.heads.model_copy(update={part.value: rows}))


def _reranking(network: HydraNetwork, encode: PairEncoder, rows: Mapping[str, int], settings: HydraSettings) -> Rerank:
    def rerank(user: str, query: str, items: Sequence[PastItem]) -> list[int]:
        scores = read_pairs(network, encode, rerank_pairs(query, items, settings.item_text), rows.get(user, SHARED))
        return [one.position for one in ranked(scores)]

    return rerank


def _rows_of(checkpoint: HydraCheckpoint, users: Iterable[str]) -> dict[str, int]:
    rows = checkpoint.heads.rows(Part.RERANKER)
    return {user: rows[digest] for user in users if (digest := user_digest(user)) in rows}


def _digests(heads: Mapping[str, int]) -> dict[str, int]:
    return {user_digest(user): row for user, row in heads.items()}


def _with_enough_rows(rows: Sequence[Row], least: int) -> list[str]:
    counts = Counter(row.user for row in rows)
    return sorted(user for user, count in counts.items() if count >= least)
