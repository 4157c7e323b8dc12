"""The interface of both RL engines: what they get, the record of each step, and what they share.

The engines are `trainer.learn.shared_prompt_engine`, our own loop, and `trainer.learn.trl_engine`, TRL's trainer. `trainer.learn.policy_training` chooses one.
Both do REINFORCE++-baseline (arXiv 2501.03262) with the advantages of `trainer.learn.advantages`.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.errors import CannotContinue
from infra.settings.training import RlSettings
from schemas.run_report import RlStep
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.learn.policy import Policy

log = logging.getLogger(__name__)

#: The learning rate warms up linearly over this share of the steps, then decays linearly to this share of its value.
WARMUP_SHARE, RATE_FLOOR = 0.1, 0.1
#: Gradients are clipped to this norm.
GRADIENT_NORM = 1.0
LOG_EVERY_STEPS = 5


class Diverged(CannotContinue):
    """A loss, gradient or reward is not finite. Nothing of the run may be registered."""


@dataclass(frozen=True)
class RlInputs:
    """Input of an engine: policy, cases, settings, and the directory of its state."""

    policy: Policy  # trained in place; a copy of its first state is the reference policy
    cases: Sequence[QueryCase]  # those without history are not used
    prompter: Prompter
    settings: RlSettings
    seed: int
    stop: threading.Event
    state_dir: Path | None = None  # None: nothing is stored
    on_step: Callable[[RlStep], None] = lambda step: None  # gets each step once, restored ones first
    checkpoint_every: int = 10  # steps between two stored states
    micro_tokens: int = 32_768  # `trainer.micro_tokens`, for the shared_prompt engine

    def state_purpose(self, cases: Iterable[QueryCase], left_out: Collection[str] = ()) -> dict[str, object]:
        """Identifies the input of a stored state: only an equal one is resumed. `left_out` names settings that do not matter."""
        digest = hashlib.sha256("\n".join(case.case_id for case in cases).encode()).hexdigest()
        settings = self.settings.model_dump(mode="json", exclude=set(left_out))
        return {"rl": settings, "max_new_tokens": self.prompter.limits.max_new_tokens, "seed": self.seed, "cases": digest}


def rate_schedule(steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at a step (from 0)."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    return lambda step: min(1.0, (step + 1) / warmup) * max(RATE_FLOOR, 1 - step / steps)


def log_step(step: RlStep, steps: int) -> None:
    """Log every fifth step and the last one."""
    if (step.step + 1) % LOG_EVERY_STEPS == 0 or step.step + 1 == steps:
        log.info("rl step", extra={**asdict(step), "of": steps})
