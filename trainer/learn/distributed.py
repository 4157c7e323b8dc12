"""Several processes that train one policy, started by `accelerate launch` or `torchrun`: one per device, each running this whole program.

Only the main one collects, judges, registers and announces; the others hear from it what to train (`trainer.run.follower_rank`). Reads the variables
that those launchers set; without them there is one process, and nobody to wait for. Every wait ends after `trainer.processes_wait_s`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from infra.errors import BadSetting, RetryLater
from infra.settings import TrainerSettings


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that acts for all of them."""
    return int(os.environ.get("RANK", "0")) == 0


def in_bfloat16() -> bool:
    """Whether the launcher asks for mixed precision: computing in bfloat16, with weights and moments in float32."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == "bf16"


def local_device() -> Any:
    """This process's own device: the CPU, or the GPU with its local rank."""
    import torch

    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")


def divided(total: int, micro_batch: int, what: str) -> tuple[int, int]:
    """Rows of one forward pass in one process, and how many such passes make a step of `total` rows.

    `micro_batch` 0 takes a process's whole share at once. Raises BadSetting where `total` cannot be divided so; `what` names it.
    """
    share, rest = divmod(total, processes())
    size = micro_batch or share
    if rest or not share or share % size:
        raise BadSetting(f"{what}={total} is not a multiple of {processes()} processes times {size} rows of a micro batch; change one of them")
    return size, share // size


def check_launch(trainer: TrainerSettings) -> None:
    """Raises BadSetting where what `trainer` asks for cannot be trained by as many processes as were launched."""
    if trainer.rl.steps:
        if processes() > 1 and trainer.rl.engine != "trl":
            raise BadSetting(f"trainer.rl.engine={trainer.rl.engine} trains in one process, but {processes()} were launched; set it to trl")
        divided(trainer.rl.prompts_per_step * trainer.rl.candidates, trainer.rl.micro_batch, "trainer.rl.prompts_per_step * candidates")
    divided(trainer.sft.batch_size, trainer.sft.micro_batch, "trainer.sft.batch_size")


def any_process(here: bool) -> bool:
    """Whether it is so in any process. All of them ask, at the same place: one that acted alone would leave the others waiting for it."""
    import torch
    from accelerate.utils import gather

    return bool(gather(torch.tensor([here], device=local_device())).any())


class Launch:
    """The processes of one launch, joined; in a single one all methods do nothing. See `launched`."""

    def __init__(self, wait_s: float) -> None:
        self._group: Any = None
        self._told = False
        if processes() > 1:
            import torch
            from accelerate import PartialState
            from torch import distributed

            wait = timedelta(seconds=wait_s)
            PartialState(cpu=not torch.cuda.is_available(), timeout=wait)
            # Words go over the network of the hosts: who waits for one holds no GPU.
            self._group = distributed.new_group(backend="gloo", timeout=wait)

    def tell(self, word: Mapping[str, str]) -> None:
        """For the main process, once: what all will train, or nothing where there is nothing to."""
        self._told = True
        if self._group is not None:
            self._broadcast(json.dumps(word).encode())

    def hear(self) -> dict[str, str]:
        """For the other processes: wait for that."""
        word: dict[str, str] = json.loads(self._broadcast(b""))
        return word

    def leave(self) -> None:
        """For all of them, when all is trained: wait for each other, and be apart from here on."""
        if self._group is not None:
            from torch import distributed

            distributed.barrier(group=self._group)
            distributed.destroy_process_group()
            self._group = None

    def dismiss(self) -> None:
        """For the main process: let the others go where they were not told anything yet."""
        if self._group is not None and not self._told:
            self.tell({})
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
def launched(wait_s: float) -> Iterator[Launch]:
    """Join the other processes of this launch for a run. Raises what `heeding` raises."""
    with heeding(wait_s):
        launch = Launch(wait_s)
        try:
            yield launch
        finally:
            if is_main():
                launch.dismiss()


@contextmanager
def heeding(wait_s: float) -> Iterator[None]:
    """While processes work together. Raises RetryLater where one of the others dies or is silent for `wait_s`."""
    try:
        yield
    except RuntimeError as error:
        if processes() == 1 or not _between_processes(error):
            raise
        reason = f"another process of this launch died, or was silent for trainer.processes_wait_s={wait_s:.0f} s; its own log says more"
        raise RetryLater(reason) from error


def _between_processes(error: RuntimeError) -> bool:
    """Whether it came from what joins them; gloo's errors have no type of their own."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
