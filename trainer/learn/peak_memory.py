"""Peak memory since the last reset: of this process (resident) and, if torch has a GPU, of its tensors there."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset() -> None:
    """Reset both peaks. On systems other than Linux the resident peak stays that of the whole process."""
    with suppress(OSError):
        _RESET.write_text("5")
    if gpu := _gpu():
        gpu.reset_peak_memory_stats()


def peak_rss_bytes() -> int:
    with suppress(OSError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_gpu_bytes() -> int | None:
    """The peak of the current device. None if there is no GPU, or torch is not imported yet."""
    gpu = _gpu()
    return int(gpu.max_memory_allocated()) if gpu else None


def _gpu() -> Any | None:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None
