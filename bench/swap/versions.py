"""Versions of the shipped reflector with added noise, registered with their canary prompts."""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

from bench.swap.plan import SwapPlan
from infra.checkpoints.location import checkpoint_folder
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.model_events import Alias
from schemas.promotion import Transition, VersionState


def register(settings: Settings, registry: Registry, plan: SwapPlan, folder: Path) -> list[RegisteredVersion]:
    """Registers all versions as gated. The first one is the champion."""
    from trainer.judge.canary_prompts import confident_completions, most_distinctive
    from trainer.learn.policy import Policy

    shipped = checkpoint_folder(settings.reflection.checkpoint)
    checkpoints = [shipped, *(_noisy(shipped, folder / f"noisy-{number}", plan, number) for number in range(1, plan.versions))]
    never = threading.Event()
    canaries = [confident_completions(Policy.load(checkpoint), settings.reflection.prompt_style, never) for checkpoint in checkpoints]
    registered = []
    for number, checkpoint in enumerate(checkpoints):
        version = registry.register(checkpoint).version
        prompts = most_distinctive(canaries[number], canaries[number - 1])
        gated = Transition(
            seq=1,
            before=VersionState.REGISTERED,
            after=VersionState.GATED,
            at=datetime.now(UTC),
            actor="bench",
            reason="made for a measurement",
            canary_prompts=prompts,
        )
        registry.record(version, gated)
        registered.append(registry.get(version))
    registry.set_alias(Alias.CHAMPION, registered[0].version)
    return registered


def _noisy(source: Path, folder: Path, plan: SwapPlan, number: int) -> Path:
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    generator = torch.Generator().manual_seed(plan.seed * 1000 + number)
    tensors = load_file(source / "model.safetensors")
    noisy = {name: tensor * (1 + plan.noise * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype) for name, tensor in tensors.items()}
    save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
