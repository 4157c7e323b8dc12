"""The steps of SFT, and the callback that reports them and stops a run that diverges."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.errors import CannotContinue
from trainer.learn.distributed import is_main
from trainer.learn.trl_callback import TrlCallback

log = logging.getLogger(__name__)

LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class SftStep:
    """One optimizer step, numbered from 1. A step of an earlier process has no seconds."""

    step: int
    of: int
    loss: float
    seconds: float = field(default=0.0, compare=False)


class SftCallback(TrlCallback):
    """Reports every step, restored ones first. Raises CannotContinue if a loss or gradient is not finite."""

    def __init__(self, stop: threading.Event, purpose: Mapping[str, Any] | None, on_step: Callable[[SftStep], None]) -> None:
        super().__init__(stop, purpose)
        self._on_step = on_step
        self._began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for entry in state.log_history:
            if "loss" in entry:
                self._on_step(SftStep(entry["step"], state.max_steps, entry["loss"]))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        step = SftStep(state.global_step, state.max_steps, float(logs["loss"]), time.monotonic() - self._began)
        if not math.isfinite(step.loss) or not math.isfinite(float(logs.get("grad_norm", 0.0))):
            raise CannotContinue(f"SFT step {step.step}: loss {step.loss}, gradient {logs.get('grad_norm')}: not finite; lower trainer.sft.learning_rate")
        if is_main() and (step.step % LOG_EVERY_STEPS == 0 or step.step == step.of):
            log.info("sft step", extra={"step": step.step, "of": step.of, "loss": step.loss})
        self._on_step(step)
