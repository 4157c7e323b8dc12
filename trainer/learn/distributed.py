"""Several processes that train one policy, one per device, each running this whole program. `accelerate launch` or `torchrun` starts them.

Only the main one collects, judges, registers and announces; it sends the others what to train (`trainer.run.training_run.follow`). The launcher's environment
variables say which process this is; without them there is one process. Every wait ends after `trainer.processes_wait_s`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from infra.errors import BadSetting, RetryLater
from infra.settings.training import TrainerSettings


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process acts for all of them."""
    return int(os.environ.get("RANK", "0")) == 0


def in_bfloat16() -> bool:
    """Whether the launcher asks for mixed precision: computing in bfloat16, with weights and moments in float32."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == "bf16"


def local_device() -> Any:
    """This process's own device: the CPU, or the GPU with its local rank."""
    import torch

    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")


def micro_batches(rows: int, size: int, setting: str) -> tuple[int, int]:
    """Rows of one forward pass in one process, and the number of such passes in a step of `rows` rows.

    `size` 0 is a process's whole share. Raises BadSetting if the rows cannot be divided so; `setting` is the name of their setting.
    """
    share, rest = divmod(rows, process_count())
    size = size or share
    if rest or not share or share % size:
        raise BadSetting(f"{setting}={rows} is not a multiple of {process_count()} processes times {size} rows of a micro batch; change one of them")
    return size, share // size


def check_launch(trainer: TrainerSettings) -> None:
    """Raises BadSetting if the launched number of processes cannot train with these settings."""
    if trainer.rl.steps:
        if process_count() > 1 and trainer.rl.engine != "trl":
            raise BadSetting(f"trainer.rl.engine={trainer.rl.engine} trains in one process, but {process_count()} were launched; set it to trl")
        micro_batches(trainer.rl.prompts_per_step * trainer.rl.candidates, trainer.rl.micro_batch, "trainer.rl.prompts_per_step * candidates")
    micro_batches(trainer.sft.batch_size, trainer.sft.micro_batch, "trainer.sft.batch_size")


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process. All must call it at the same point: if one stopped alone, the others would wait for it."""
    import torch
    from accelerate.utils import gather

    return bool(gather(torch.tensor([flag], device=local_device())).any())


class Launch:
    """The joined processes of one launch. If there is only one, its methods do nothing. See `joined_launch`."""

    def __init__(self, wait_s: float) -> None:
        self._group: Any = None
        self._sent = False
        if process_count() > 1:
            import torch
            from accelerate import PartialState
            from torch import distributed

            wait = timedelta(seconds=wait_s)
            PartialState(cpu=not torch.cuda.is_available(), timeout=wait)
            # Assignments go over the hosts' network: a process that waits for one uses no GPU.
            self._group = distributed.new_group(backend="gloo", timeout=wait)

    def send(self, assignment: Mapping[str, str]) -> None:
        """Send what all processes train; empty if they train nothing. The main process calls it once."""
        self._sent = True
        if self._group is not None:
            self._broadcast(json.dumps(assignment).encode())

    def receive(self) -> dict[str, str]:
        """Wait for the main process's assignment. The other processes call it."""
        assignment: dict[str, str] = json.loads(self._broadcast(b""))
        return assignment

    def leave(self) -> None:
        """Wait for all processes and end the group. Each process calls it after training."""
        if self._group is not None:
            from torch import distributed

            distributed.barrier(group=self._group)
            distributed.destroy_process_group()
            self._group = None

    def release(self) -> None:
        """Let the other processes end if nothing was sent to them. The main process calls it."""
        if self._group is not None and not self._sent:
            self.send({})
            self.leave()

    def _broadcast(self, text: bytes) -> bytes:
        import torch
        from torch import distributed

        length = torch.tensor([len(text)])
        distributed.broadcast(length, 0, group=self._group)
        body = torch.tensor(list(text), dtype=torch.uint8) if text else torch.empty(int(length), dtype=torch.uint8)
        distributed.broadcast(body, 0, group=self._group)
        return bytes(body.tolist())


@contextmanager
def joined_launch(wait_s: float) -> Iterator[Launch]:
    """Join the other processes of this launch for a run. Raises RetryLater as `process_errors` does."""
    with process_errors(wait_s):
        launch = Launch(wait_s)
        try:
            yield launch
        finally:
            if is_main():
                launch.release()


@contextmanager
def process_errors(wait_s: float) -> Iterator[None]:
    """Raises RetryLater if another process of the launch dies, or is silent for `wait_s`."""
    try:
        yield
    except RuntimeError as error:
        if process_count() == 1 or not _is_group_error(error):
            raise
        _abandon_group()
        reason = f"another process of this launch died, or was silent for trainer.processes_wait_s={wait_s:.0f} s; its own log says more"
        raise RetryLater(reason) from error


def _abandon_group() -> None:
    """End the threads of the broken group: a thread that still runs when the interpreter ends can abort the process."""
    from torch import distributed

    with suppress(RuntimeError):
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _is_group_error(error: RuntimeError) -> bool:
    """Whether the process group raised it. Gloo's errors have no type of their own."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
