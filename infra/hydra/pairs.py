"""Text pairs as input of an encoder: `[CLS] first [SEP] second [SEP]`, with the tokens of the encoder's own tokenizer.

HYDRA writes `[CLS]` and `[SEP]` into one text, which Longformer's tokenizer reads as plain words, and joins source and answer without a separator. Here both
networks read a pair. If it is too long, the longer text is cut first, so that a short candidate is never cut off behind a long query.
The reranker reads the query's text and an item; the scorer reads the task prompt and a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from infra.settings.hydra import ItemText
from schemas.prompts import Example
from schemas.sameness import is_blank

if TYPE_CHECKING:
    from torch import Tensor


class Pair(NamedTuple):
    """The two texts that a network reads together."""

    first: str
    second: str


class PairEncoder:
    """Tokenizes pairs. Marks such as `[SEP]` in a text stay plain text."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        """Token ids, attention mask and, where the encoder has them, token types: B pairs by T tokens, padded to the longest."""
        encoded = self._tokenizer(
            [pair.first for pair in pairs],
            [pair.second for pair in pairs],
            padding=True,
            truncation="longest_first",
            max_length=self._max_length,
            split_special_tokens=True,
            return_tensors="pt",
        )
        return dict(encoded)


def reranked_text(item: Example, kind: ItemText) -> str:
    """What the reranker reads of a history item."""
    if is_blank(item.content):
        return item.response
    return item.content if kind is ItemText.CONTENT else f"{item.content}\n{item.response}"
