"""`python -m bench.ingest.vectors_given`: the streams process with vectors that cost nothing, so that only the pipeline and the index are measured."""

from __future__ import annotations

import asyncio
import sys
import threading
import zlib
from collections.abc import Sequence

import numpy as np

from infra.process.lifecycle import run_process
from infra.settings import Settings
from streams.embedding.embedder import Matrix
from streams.service import Stores, open_index, open_profile_index, serve

DIMENSION = 384
#: A vector is the sum of two rows of a table, chosen by the text's checksum: four million different ones.
ROWS = 2_048


class ChecksumEmbedder:
    """Unit vectors derived from texts: equal ones for equal texts. About a microsecond each."""

    name, dimension = "checksum", DIMENSION

    def __init__(self) -> None:
        self._table = np.random.default_rng(0).standard_normal((ROWS, DIMENSION), dtype=np.float32)

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Matrix:
        return self.vectors(texts)

    def vectors(self, texts: Sequence[str]) -> Matrix:
        sums = np.fromiter((zlib.crc32(text.encode()) for text in texts), dtype=np.uint32, count=len(texts))
        added = self._table[sums % ROWS] + self._table[(sums // ROWS) % ROWS]
        unit: Matrix = added / np.linalg.norm(added, axis=1, keepdims=True)
        return unit


def main() -> int:
    def body(settings: Settings, stop: threading.Event) -> None:
        asyncio.run(_serve(settings, stop))

    return run_process("bench streams", body)


async def _serve(settings: Settings, stop: threading.Event) -> None:
    embedder = ChecksumEmbedder()
    stores = Stores(await open_index(settings, embedder), await open_profile_index(settings, embedder), are_embedded=True)
    await serve(settings, stop, embedder, stores)


if __name__ == "__main__":
    sys.exit(main())
