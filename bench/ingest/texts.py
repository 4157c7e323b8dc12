"""The texts of a run, and the interactions that hold them.

Generated texts have as many words as English news headlines with their descriptions: log-normal, median 27, sigma 0.35, from 4 to 120. The words are common
English ones, half of them from two of 100 subjects, so that texts have nearest neighbours. MiniLM reads 35.5 tokens of them on average (4,000 texts, seed 0,
2026-12-01), and 34.8 of HuffPost's descriptions with headlines. Texts are distinct: streams embeds an equal text of one batch only once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from infra.errors import CannotContinue
from schemas.interactions import Interaction

TENANT, DOMAIN = "bench", "movie_tag"
FIRST_AT = datetime(2026, 1, 1, tzinfo=UTC)
MEDIAN_WORDS, SIGMA, FEWEST, MOST = 27, 0.35, 4, 120
SUBJECTS, WORDS_OF_SUBJECT = 100, 20
#: Fewer texts than this have no steady rate.
LEAST = 100


def texts_of(count: int, file: Path | None = None, seed: int = 0) -> list[str]:
    """`count` distinct texts. A file with fewer gives those that it has. Raises CannotContinue if it cannot be read or has fewer than LEAST."""
    return _from_file(file, count) if file else generated(count, seed)


def _from_file(file: Path, count: int) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotContinue(f"{file}: {error}; name a UTF-8 file with one text in each line") from error
    texts = list(dict.fromkeys(text for line in lines if (text := line.strip())))[:count]
    if len(texts) < LEAST:
        raise CannotContinue(f"{file} has {len(texts)} distinct texts; at least {LEAST} are needed, one in each line")
    return texts


def generated(count: int, seed: int = 0) -> list[str]:
    """`count` distinct texts, equal for equal seeds."""
    from stopwordsiso import stopwords

    rng = random.Random(seed)  # noqa: S311  # repeatable texts, no secret
    words = sorted(word for word in stopwords("en") if word.isascii() and word.isalpha() and len(word) > 1)
    subjects = [rng.sample(words, WORDS_OF_SUBJECT) for _ in range(SUBJECTS)]
    found: dict[str, None] = {}
    while len(found) < count:
        length = min(MOST, max(FEWEST, round(rng.lognormvariate(0.0, SIGMA) * MEDIAN_WORDS)))
        near = [word for subject in rng.sample(subjects, 2) for word in subject]
        found[" ".join(rng.choice(near if rng.random() < 0.5 else words) for _ in range(length))] = None
    return list(found)


def short(count: int) -> Iterator[str]:
    """Distinct texts of one line, for vectors that cost nothing."""
    return (f"the answer that the user wrote to question {number} of this run" for number in range(count))


def interactions(texts: Sequence[str] | Iterator[str], users: int) -> Iterator[Interaction]:
    """One interaction for each text, of users in turn, a second apart."""
    for number, text in enumerate(texts):
        at = FIRST_AT + timedelta(seconds=number)
        yield Interaction.observed(tenant=TENANT, user=user_name(number % users), source_id=number, domain=DOMAIN, content="", response=text, occurred_at=at)


def user_name(number: int) -> str:
    return f"u{number:05d}"
