"""RL by the engine that `trainer.rl.engine` names."""

from __future__ import annotations

from infra.errors import BadSetting
from schemas.run_report import RlStep
from trainer.learn.distributed import process_count
from trainer.learn.lora import disable_dropout
from trainer.learn.rl_engine import RlEngine, RlInputs
from trainer.learn.shared_prompt_engine import train_with_shared_prompts


def train_rl(inputs: RlInputs) -> list[RlStep]:
    """Train `inputs.policy` in place, with its dropout removed for good. Raises what `RlEngine` raises, and BadSetting."""
    disable_dropout(inputs.policy.model)
    return engine(inputs.settings.engine)(inputs)


def engine(name: str) -> RlEngine:
    """Raises BadSetting if our own loop was launched in several processes."""
    if name == "trl":
        from trainer.learn.trl_engine import train_with_trl  # slow to import

        return train_with_trl
    if process_count() > 1:
        raise BadSetting(f"trainer.rl.engine=shared_prompt trains in one process, but {process_count()} were launched; set it to trl")
    return train_with_shared_prompts
