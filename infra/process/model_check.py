"""Refuses settings in which a shipped tiny model would work beside a real one unnoticed, or a real one would get the tiny models' prompts.

A checkpoint of 32 MB or more is a real model (`infra.checkpoints.size`). A smaller one that is not shipped may be anything, so it is never refused here.
"""

from __future__ import annotations

import logging
from pathlib import Path

from infra.checkpoints.location import checkpoint_folder
from infra.checkpoints.size import is_large
from infra.errors import BadSetting
from infra.settings import Settings
from infra.settings.models import TINY_BASE, BaseModelSettings, ReflectionSettings
from schemas.prompts import PromptStyle
from schemas.strategies import Strategy

log = logging.getLogger(__name__)

_BASE, _REFLECTION = BaseModelSettings(), ReflectionSettings()


def check_models(settings: Settings) -> None:
    """Raises BadSetting. Every command and process calls this at its start. Reads the sizes of files, no model."""
    if problems := [*_compact_prompts(settings), *_compact_endpoint(settings.base), *_tiny_beside_real(settings)]:
        raise BadSetting("; ".join(problems))


def warn_of_tiny_models(settings: Settings) -> None:
    """Log each of `tiny_model_warnings`."""
    for why in tiny_model_warnings(settings):
        log.warning("a tiny model, or its prompts, are used beside an endpoint's model", extra={"why": why})


def tiny_model_warnings(settings: Settings) -> list[str]:
    """What may be intended for a first try: an endpoint's model as base model, with the tiny reflection model."""
    base, reflection = settings.base, settings.reflection
    if not base.url or base.model == TINY_BASE:
        return []
    warnings = []
    if _is_shipped(reflection.checkpoint, _REFLECTION.checkpoint) and _rpo_answers(settings):
        warnings.append(
            f"reflection.checkpoint={reflection.checkpoint}, the tiny model, rewrites answers of base.model={base.model} unless the registry holds another: "
            "set reflection.checkpoint to a real model and reflection.prompt_style=paper, or strategies.weights without rpo"
        )
    return warnings


def _compact_prompts(settings: Settings) -> list[str]:
    sections: dict[str, BaseModelSettings | ReflectionSettings] = {"base": settings.base, "reflection": settings.reflection}
    styles = {"base": settings.base.style, "reflection": settings.reflection.prompt_style}
    return [
        f"{name}.prompt_style=compact, but {name}.checkpoint={section.checkpoint} is a real model, which cannot read the tiny models' prompts: "
        f"set {name}.prompt_style=paper"
        for name, section in sections.items()
        if styles[name] is PromptStyle.COMPACT and _is_real(section.checkpoint)
    ]


def _compact_endpoint(base: BaseModelSettings) -> list[str]:
    if not base.url or base.model == TINY_BASE or base.style is not PromptStyle.COMPACT:
        return []
    return [
        f"base.prompt_style=compact is the tiny models' prompt, which names no options, but base.model={base.model} is another model: "
        f"leave base.prompt_style out, or set base.model={TINY_BASE} if base.url serves the tiny model"
    ]


def _tiny_beside_real(settings: Settings) -> list[str]:
    """With `base.url` the base model is an endpoint's."""
    base, reflection = settings.base, settings.reflection
    if base.url:
        return []
    if _is_shipped(base.checkpoint, _BASE.checkpoint):
        where = f"base.url is empty, so the tiny model base.checkpoint={base.checkpoint} would answer"
        right = "set OPENAI_BASE_URL to the base model's endpoint, or base.checkpoint to its folder"
        if _is_real(reflection.checkpoint):
            return [f"reflection.checkpoint={reflection.checkpoint} is a real model, but {where}: {right}"]
        return [f"{where} as base.model={base.model}: {right}"] if base.model != TINY_BASE else []
    if _is_real(base.checkpoint) and _is_shipped(reflection.checkpoint, _REFLECTION.checkpoint) and _rpo_answers(settings):
        return [
            f"base.checkpoint={base.checkpoint} is a real model, but reflection.checkpoint={reflection.checkpoint}, the tiny model, would rewrite its answers: "
            "set reflection.checkpoint to a real model, or strategies.weights without rpo"
        ]
    return []


def _is_real(checkpoint: Path) -> bool:
    return is_large(checkpoint_folder(checkpoint))


def _is_shipped(checkpoint: Path, shipped: Path) -> bool:
    return checkpoint_folder(checkpoint) == checkpoint_folder(shipped)


def _rpo_answers(settings: Settings) -> bool:
    return settings.strategies.weights.get(Strategy.RPO, 0.0) > 0
