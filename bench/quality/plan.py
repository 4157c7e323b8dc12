"""What makes the answers of a run comparable: a folder with answers is not continued with another value of these settings, or with other data.

Every setting of the sections that influence answers is compared, except those that change how fast or by whom something is computed, not what. So a new
setting is compared until it is named here. The files of checkpoints and models are compared by their paths alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from bench.quality.questions import Material
from infra.settings import Settings
from infra.settings.section import Section

SECTIONS = ("base", "reflection", "strategies", "retrieval", "embedder", "profiles", "hydra", "teacher", "trainer")
#: Last parts of names, in any section.
CHANGE_NOTHING = {
    *("api_key", "timeout_s", "attempts", "concurrency", "breaker_failures", "breaker_open_s", "threads", "poll_s", "processes_wait_s", "deadline_reserve_s"),
    *("micro_batch", "micro_tokens", "generate_rows", "gradient_checkpointing", "checkpoint_every", "factor_users", "vllm_url", "vllm_memory_share"),
}
#: Whole names: of services that do not run here, and what the benchmark sets by itself (`--seed`, the stages of training, the strategy of each query).
OF_NO_USE = {
    *("embedder.batch_size", "reflection.versions", "strategies.weights", "strategies.experiment"),
    *("hydra.train", "hydra.model_name", "trainer.seed", "trainer.start_from", "trainer.every_s", "trainer.new_outcomes"),
    *("trainer.drift_window", "trainer.drift_drop"),
}


def compared_settings(settings: Settings) -> dict[str, str]:
    """The compared values by name. Parameters of requests, which may hold a secret, as a digest."""
    found = {"tenant": settings.tenant}
    for section in SECTIONS:
        found |= dict(_values(section, getattr(settings, section)))
    return found


def data_digest(material: Material) -> str:
    """sha256 over the history, the lessons and the questions, in their order."""
    digest = hashlib.sha256()
    for interaction in material.history:
        digest.update(interaction.model_dump_json().encode() + b"\n")
    for question in (*material.lessons, *material.questions):
        feedback = "".join(each.model_dump_json() for each in question.feedback)
        digest.update(f"{question.query.model_dump_json()}{json.dumps(question.truth)}{feedback}\n".encode())
    return digest.hexdigest()


def _values(name: str, value: object) -> Iterator[tuple[str, str]]:
    last = name.rpartition(".")[2]
    if name in OF_NO_USE or last in CHANGE_NOTHING:
        return
    if isinstance(value, Section):
        for field in type(value).model_fields:
            yield from _values(f"{name}.{field}", getattr(value, field))
    elif last == "parameters":
        yield name, hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    else:
        yield name, str(value)
