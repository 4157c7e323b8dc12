"""Whose words an answer has: each is held against what its stamped version says to the same question alone, one question at a time.

Sums that are added in another order may decide a tie otherwise, so other words are not yet another version's: those that the stamped version does not say
and another does are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.settings import Settings
from lab.promotion.live.users import ObservedAnswer
from schemas.contexts import Context
from schemas.responses import ModelVersion, ResponseStatus
from workers.reflection.reflector import Reflector
from workers.serving.engines.factory import start_engine
from workers.serving.routes import Routes

WRITTEN = frozenset({ResponseStatus.PERSONALIZED, ResponseStatus.UNPARSABLE})

#: What a version says, by question.
Words = Sequence[tuple[ResponseStatus, tuple[str, str]]]


def spoken(settings: Settings, checkpoint: Path, digest: str, contexts: Sequence[Context]) -> Words:
    """Blocks while it loads the checkpoint and answers."""
    model = ModelVersion(name=settings.registry.model_name, version="0", digest=digest)
    alone = settings.model_copy(update={"reflection": settings.reflection.model_copy(update={"versions": 1})})
    engine = start_engine(alone, checkpoint, model)

    async def ask() -> Words:
        reflector = Reflector(alone.reflection, engine, lambda: Routes(model))
        found = [await reflector.answer(context) for context in contexts]
        await engine.close()
        return [(response.status, (response.reasoning, response.answer)) for response in found]

    return asyncio.run(ask())


def compare(answers: Sequence[ObservedAnswer], words: Mapping[str, Words]) -> tuple[dict[str, int], list[str]]:
    """Figures, and the answers that another version gave. `words` by digest."""
    found = {"compared": 0, "equal": 0, "other_words": 0}
    told = []
    for answer in answers:
        if answer.model is None or answer.status not in WRITTEN:
            continue
        found["compared"] += 1
        said, own = (answer.status, answer.words), words.get(answer.model.digest)
        if own is None:
            told.append(f"{answer.query_id}: stamped version {answer.model.version}, with a digest that nobody registered")
        elif said == own[answer.question]:
            found["equal"] += 1
        elif any(said == others[answer.question] for others in words.values()):
            told.append(f"{answer.query_id}: stamped version {answer.model.version}, in the words of another")
        else:
            found["other_words"] += 1
    first, *others = words.values() or [()]
    telling = [one != other for spoken in others for one, other in zip(first, spoken, strict=True)]
    found["telling_percent"] = round(100 * sum(telling) / max(1, len(telling)))  # of the questions, those that versions answer in different words
    return found, told
