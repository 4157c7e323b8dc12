"""What any method can reach in the persona world: the floor without the user, the best simple rule that sees k items, the answer without noise.

A learned model is judged by how far it goes from the first to the second. The rules know the world's templates, as a model has to learn them:

- *tags*: the tag that most of the seen items of the film's family have; of tags seen equally often the one seen on the item nearest to the query;
- *ratings*: what the review's words are worth, plus the median of the seen items' shifts (of two middle ones the mean, rounded half to even). Items whose
  score stands at an end of the scale hide how far the user leans, so they count only where all do;
- *texts*: opener, intensifier, closer and letter case of most of the seen items, each by itself; the nearest item decides a tie.

They are good rules, not proven optima: a method may lie above one by seeing more in k items than a majority.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeVar

from schemas.prompts import Example
from schemas.scoring import score
from traffic.world import FAMILIES, MOVIE_TAG, PRODUCT_RATING, Note, Question, Style, closer_of, intensifier_of, note_of, opener_of, worth_of

T = TypeVar("T", bound=Hashable)
