"""The precision in which an engine computes: what the setting says, or what the processor and the checkpoint have. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path

from infra.checkpoints.verification import stored_dtypes
from infra.settings.models import Dtype

#: What Linux reports of each processor.
CPUINFO = Path("/proc/cpuinfo")
#: Instructions that multiply bfloat16: x86 reports the first two, ARM the third.
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
_FLAGS = re.compile(r"^(?:flags|Features)\s*:(.*)$", re.MULTILINE)


def engine_dtype(wanted: Dtype, checkpoint: Path, *, on_gpu: bool, cpuinfo: Path = CPUINFO) -> str:
    """`float32`, `bfloat16`, or on GPUs `auto`, which vLLM and transformers take as the checkpoint's own.

    On CPU `auto` is bfloat16 if the processor multiplies it and the checkpoint stores nothing else, so no weight is rounded; otherwise it is float32.
    """
    if wanted is not Dtype.AUTO or on_gpu:
        return wanted.value
    is_native = processor_has_bfloat16(cpuinfo) and stored_dtypes(checkpoint) == {"BF16"}
    return Dtype.BFLOAT16.value if is_native else Dtype.FLOAT32.value


def processor_has_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """False where the system does not say."""
    try:
        lines = _FLAGS.findall(cpuinfo.read_text(errors="replace"))
    except OSError:
        return False
    return bool(lines) and all(_BFLOAT16 & set(flags.split()) for flags in lines)
