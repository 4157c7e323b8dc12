"""BM25 by the rules of LaMP and rank_bm25: `BM25Okapi` with k1 1.5, b 0.75 and epsilon 0.25, over tokens of plain `str.split`.

Case and punctuation are kept, as in LaMP's `rank_profiles.py`. The whole corpus of a call is one user's items, so idf is the user's own.
"""

from collections.abc import Sequence
from typing import NamedTuple

from schemas.prompts import Example
from schemas.sameness import is_blank
from schemas.tasks import Task

K1, B, EPSILON = 1.5, 0.75, 0.25


class Ranked(NamedTuple):
    position: int  # in the texts that were ranked
    score: float  # not bounded, below 0 for a word of a single text


def rank(query: str, texts: Sequence[str], limit: int) -> list[Ranked]:
    """The `limit` best of `texts` for the query, best first; of equal scores, the later text first.

    LaMP reverses numpy's argsort, which puts the later of equal items first in arrays of up to 16; here it does in all.
    Texts that share no word with the query have score 0 and are ranked too. Costs one pass over all texts: nothing is kept between calls.
    """
    if limit <= 0:
        return []
    scores = _scores(query.split(), [text.split() for text in texts])
    best = sorted(range(len(texts)), key=lambda position: (-scores[position], -position))[:limit]
    return [Ranked(position, scores[position]) for position in best]


def corpus_text(item: Example, task: Task) -> str:
    """A history item's text in LaMP's `rank_profiles.py`.

    A label or a rating is no part of it, because it would match queries that name all options. A free text is: LaMP-5 ranks title and abstract, LaMP-7
    the tweet, which is our response.
    """
    if task is not Task.TEXT:
        return item.content
    return " ".join(part for part in (item.response, item.content) if not is_blank(part))


def _scores(query: list[str], corpus: list[list[str]]) -> list[float]:
    if not any(corpus):  # rank_bm25 divides by the number of words
        return [0.0] * len(corpus)
    from rank_bm25 import BM25Okapi

    return [float(score) for score in BM25Okapi(corpus, k1=K1, b=B, epsilon=EPSILON).get_scores(query)]
