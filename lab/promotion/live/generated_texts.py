"""Compares each answer with the text that its stamped version generates alone, one question at a time.

Sums in another order may decide a tie differently, so a different text alone is no anomaly. A text that another version generates, and not the stamped one, is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.settings import Settings
from lab.promotion.live.simulated_users import ObservedAnswer
from schemas.contexts import Context
from schemas.responses import ModelVersion, ResponseStatus
from workers.reflection.reflector import Reflector
from workers.serving.engines.factory import start_engine
from workers.serving.routes import Routes

WRITTEN = frozenset({ResponseStatus.PERSONALIZED, ResponseStatus.UNPARSABLE})

#: The texts that a version generates, by question.
Texts = Sequence[tuple[ResponseStatus, tuple[str, str]]]


def generated_texts(settings: Settings, checkpoint: Path, digest: str, contexts: Sequence[Context]) -> Texts:
    """Loads the checkpoint and answers every question. Blocks."""
    model = ModelVersion(name=settings.registry.model_name, version="0", digest=digest)
    alone = settings.changed(reflection={"versions": 1})
    engine = start_engine(alone, checkpoint, model)

    async def answer_all() -> Texts:
        reflector = Reflector(alone.reflection, engine, lambda: Routes(model))
        responses = [await reflector.answer(context) for context in contexts]
        await engine.close()
        return [(response.status, (response.reasoning, response.answer)) for response in responses]

    return asyncio.run(answer_all())


def compare(answers: Sequence[ObservedAnswer], texts: Mapping[str, Texts]) -> tuple[dict[str, int], list[str]]:
    """Figures, and the answers with another version's text. `texts` are by digest."""
    counts = {"compared": 0, "equal": 0, "other_words": 0}
    anomalies = []
    for answer in answers:
        if answer.model is None or answer.status not in WRITTEN:
            continue
        counts["compared"] += 1
        text, own = (answer.status, answer.text), texts.get(answer.model.digest)
        if own is None:
            anomalies.append(f"{answer.query_id}: stamped version {answer.model.version}, with a digest that is not registered")
        elif text == own[answer.question]:
            counts["equal"] += 1
        elif any(text == others[answer.question] for others in texts.values()):
            anomalies.append(f"{answer.query_id}: stamped version {answer.model.version}, with the text of another")
        else:
            counts["other_words"] += 1
    first, *others = texts.values() or [()]
    differing = [a != b for other in others for a, b in zip(first, other, strict=True)]
    counts["telling_percent"] = round(100 * sum(differing) / max(1, len(differing)))  # share of questions with different texts
    return counts, anomalies
