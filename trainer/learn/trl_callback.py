"""Callback of transformers' Trainer for SFT and RL: stops after a step, and writes the marker file of a whole checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

from trainer.learn.distributed import any_process
from trainer.learn.trl_checkpoints import mark_checkpoint


class TrlCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """`purpose` is what the checkpoints were made for; None if none are stored."""

    def __init__(self, stop: threading.Event, purpose: Mapping[str, Any] | None) -> None:
        self.stopped = False
        self._stop, self._purpose = stop, purpose

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if any_process(self._stop.is_set()):  # a signal reaches them at different times
            self.stopped = control.should_training_stop = True
            control.should_save = self._purpose is not None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # each process writes its own random streams
        if self._purpose is not None and state.is_world_process_zero:
            mark_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._purpose)
