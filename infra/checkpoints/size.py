"""The size of a checkpoint's weights, which decides between the engines where a setting says `auto`. Imports no torch."""

from __future__ import annotations

from pathlib import Path

#: Smaller checkpoints run on plain transformers: it starts at once, while vLLM takes 25 to 70 s on a CPU.
VLLM_FROM_BYTES = 32 << 20


def is_large(checkpoint: Path) -> bool:
    """Whether vLLM's speed is worth its start."""
    return sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")) >= VLLM_FROM_BYTES
