"""`python -m tests.support.small_streams`: the streams process with a small embedder, and the index that the settings name: a server's, or an embedded one.

With the argument `unchecked` it joins the group without a look at its members and offsets, as a process does whose look was just before another one joined.
"""

from __future__ import annotations

import asyncio
import sys
import threading

from infra.process.lifecycle import run_process
from infra.settings import Settings
from streams.app import topology
from streams.service import Stores, open_index, open_or_lazy, open_profile_index, serve
from tests.support.streams_fakes import WordEmbedder


def run(settings: Settings, stop: threading.Event) -> None:
    asyncio.run(_serve(settings, stop))


async def _serve(settings: Settings, stop: threading.Event) -> None:
    embedder = WordEmbedder()
    history = await open_or_lazy(lambda: open_index(settings, embedder))
    profiles = await open_or_lazy(lambda: open_profile_index(settings, embedder))
    await serve(settings, stop, embedder, Stores(history, profiles, are_embedded=settings.index.url is None))


if __name__ == "__main__":
    if "unchecked" in sys.argv:
        for look in ("wait_for_other_indexes", "delete_offsets"):
            setattr(topology, look, lambda *args: None)
    sys.exit(run_process("small-streams", run))
