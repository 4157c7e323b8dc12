"""Keeps the libraries that load models offline: no downloads, no telemetry."""

from __future__ import annotations

import os


def keep_libraries_offline() -> None:
    """Call before they are imported: they read these variables then. A variable that is already set keeps its value."""
    for name, value in (("HF_HUB_OFFLINE", "1"), ("HF_HUB_DISABLE_TELEMETRY", "1"), ("TOKENIZERS_PARALLELISM", "false")):
        os.environ.setdefault(name, value)
