"""How the libraries that load models behave in our processes: they fetch nothing and report nothing."""

from __future__ import annotations

import os


def keep_libraries_offline() -> None:
    """Call before any of them is imported, which is when they read this. What somebody set already stays."""
    for name, value in (("HF_HUB_OFFLINE", "1"), ("HF_HUB_DISABLE_TELEMETRY", "1"), ("TOKENIZERS_PARALLELISM", "false")):
        os.environ.setdefault(name, value)
