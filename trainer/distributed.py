"""Several processes that train one policy, started by `accelerate launch` or `torchrun`: one per device, each running this whole program.

Only the main one may collect, register or announce. Reads the variables that those launchers set; without them there is one process.
"""

from __future__ import annotations

import os
from typing import Any


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
    from infra.errors import BadSetting

    share, rest = divmod(total, processes())
    size = micro_batch or share
    if rest or not share or share % size:
        raise BadSetting(f"{what}={total} is not a multiple of {processes()} processes times {size} rows of a micro batch; change one of them")
    return size, share // size
