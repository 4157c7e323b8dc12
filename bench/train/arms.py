"""The arms of a measurement: start checkpoint, training, and prompt.

Arms with the same SFT name it as their `start`, so they share one checkpoint: two SFT runs differ by more than many effects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.train.plan import TrainPlan
from infra.checkpoints.location import checkpoint_folder
from infra.settings import Settings
from infra.settings.training import RlSettings, SftSettings, TrainerSettings

#: Only the plan limits the number of steps, not the amount of data.
_MANY_EPOCHS = 1e6

ZERO_SHOT, RAG_BASE, RAG_REFLECTOR = "zero_shot", "rag_base", "rag_reflector"
SFT_TOP1, SFT_MIXED, SFT_LONGER, RL_ALONE = "sft_top1", "sft_mixed", "sft_mixed_longer", "rl_alone"
RL_FIXED, RL_PROGRESSIVE, RL_MIXED = "sft_top1_rl_fixed", "sft_top1_rl_progressive", "sft_mixed_rl"

#: The arms for real data, which has too few authors for more arms.
REAL = (RAG_BASE, RAG_REFLECTOR, SFT_MIXED, RL_MIXED)

TITLES = {
    ZERO_SHOT: "zero-shot",
    RAG_BASE: "RAG by the base",
    RAG_REFLECTOR: "RAG by the reflector",
    SFT_TOP1: "SFT top-1",
    SFT_MIXED: "SFT mixed k",
    SFT_LONGER: "SFT mixed k, as long as RL",
    RL_ALONE: "RL without SFT",
    RL_FIXED: "SFT top-1 + RL, k = 4",
    RL_PROGRESSIVE: "SFT top-1 + RL, k 2 to 6",
    RL_MIXED: "SFT mixed k + RL",
}


class PromptKind(StrEnum):
    REWRITE = "rewrite"  # the reflection prompt, with items found by query and draft
    RAG = "rag"  # items found by the query alone, then the task


@dataclass(frozen=True)
class TrainArm:
    """`start` is a checkpoint, or the name of the arm whose result is the start."""

    name: str
    start: Path | str
    prompt: PromptKind = PromptKind.REWRITE
    sft: SftSettings | None = None
    rl: RlSettings | None = None


def arms(plan: TrainPlan, settings: Settings) -> list[TrainArm]:
    """All arms but zero-shot, which needs no work. They start from `base.checkpoint` and `reflection.checkpoint`."""
    trainer = settings.trainer
    base, reflector = checkpoint_folder(settings.base.checkpoint), checkpoint_folder(settings.reflection.checkpoint)
    longest = plan.rl_steps * plan.sft_steps_per_rl_step
    progressive = rl(trainer, plan, plan.k_min, plan.k_max)
    return [
        TrainArm(RAG_BASE, base, PromptKind.RAG),
        TrainArm(RAG_REFLECTOR, reflector, PromptKind.RAG),
        TrainArm(SFT_TOP1, reflector, sft=sft(trainer, plan.sft_steps)),
        TrainArm(SFT_MIXED, reflector, sft=sft(trainer, plan.sft_steps, plan.k_max)),
        TrainArm(RL_MIXED, SFT_MIXED, rl=progressive),
        TrainArm(RL_PROGRESSIVE, SFT_TOP1, rl=progressive),
        TrainArm(RL_FIXED, SFT_TOP1, rl=rl(trainer, plan, plan.k, plan.k)),
        TrainArm(RL_ALONE, reflector, rl=progressive),
        TrainArm(SFT_LONGER, reflector, sft=sft(trainer, plan.sft_steps + longest, plan.k_max)),
    ]


def chosen(all_arms: Sequence[TrainArm], names: Sequence[str]) -> list[TrainArm]:
    """The named arms and their starts; all arms for no names. Raises KeyError for an unknown name."""
    by_name = {arm.name: arm for arm in all_arms}
    chosen_names = set(names) or set(by_name)
    for name in [*chosen_names]:
        if name != ZERO_SHOT and isinstance(start := by_name[name].start, str):
            chosen_names.add(start)
    return [arm for arm in all_arms if arm.name in chosen_names]


def sft(trainer: TrainerSettings, steps: int, k_max: int = 0) -> SftSettings:
    """The configured SFT with one item, or one to `k_max` items, for exactly `steps` steps."""
    return trainer.sft.model_copy(update={"k": 1, "k_max": k_max, "epochs": _MANY_EPOCHS, "max_steps": steps})


def rl(trainer: TrainerSettings, plan: TrainPlan, k_min: int, k_max: int) -> RlSettings:
    changes = {"steps": plan.rl_steps, "k_min": k_min, "k_max": k_max, "prompts_per_step": plan.prompts_per_step, "candidates": plan.candidates}
    return trainer.rl.model_copy(update=changes)
