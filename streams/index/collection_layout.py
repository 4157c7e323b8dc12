"""The layout of a collection on a Qdrant server: what `index` sets when it is created, and what an existing one is compared with.

There is no global HNSW graph (`m=0`) but one per user (`payload_m=16`), as Qdrant recommends for multitenancy.

A difference in what vectors mean or what a search finds is an error, and so are fewer copies than are set: writes would count with less than the operator
asked for. All other differences change only speed and memory; the process serves and warns, because to refuse would take the history from every answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from infra.errors import CannotContinue
from infra.settings.stream import IndexSettings, Quantization, Similarity
from streams.index.server_errors import Place

if TYPE_CHECKING:
    from qdrant_client import models

log = logging.getLogger(__name__)

M, PAYLOAD_M = 0, 16
#: Key of a collection's id in its metadata: an alias, and another URL of the server, lead to the same one.
IDENTITY = "id"


class Embedding(NamedTuple):
    """Of the vectors in a collection. The name is the embedder's, with all that changes its vectors."""

    name: str
    dimension: int
    similarity: Similarity


class Difference(NamedTuple):
    setting: str
    stored: object
    wanted: object
    is_harmless: bool

    def __str__(self) -> str:
        return f"{self.setting}={self.wanted}, but the collection has {self.stored}"


def creation(settings: IndexSettings, embedding: Embedding) -> dict[str, Any]:
    """The arguments of `create_collection`. What is None is left to the server."""
    from qdrant_client import models

    distance = models.Distance(embedding.similarity.capitalize())
    return {
        "vectors_config": models.VectorParams(size=embedding.dimension, distance=distance, on_disk=settings.vectors_on_disk),
        "hnsw_config": models.HnswConfigDiff(m=M, payload_m=PAYLOAD_M),
        "quantization_config": _quantization(settings.quantization),
        "shard_number": settings.shards,
        "replication_factor": settings.replication_factor,
        "write_consistency_factor": settings.write_consistency_factor,
        "on_disk_payload": settings.payload_on_disk,
        "metadata": {"embedder": embedding.name, IDENTITY: str(uuid4())},
    }


def check(config: models.CollectionConfig, settings: IndexSettings, embedding: Embedding, place: Place) -> None:
    """Raises CannotContinue with every difference that is an error, and logs the others, one warning each."""
    if isinstance(config.params.vectors, Mapping) or config.params.vectors is None:
        raise CannotContinue(f"{place} has named vectors, not the one vector of a history index: choose another index.collection")
    differences = list(_differences(config, config.params.vectors, settings, embedding))
    for difference in differences:
        if difference.is_harmless:
            log.warning("the collection has another layout than the settings; it serves", extra={"collection": place.collection, "difference": str(difference)})
    if errors := [difference for difference in differences if not difference.is_harmless]:
        raise CannotContinue(f"{place} does not fit the settings: {'; '.join(map(str, errors))}. {_remedy(errors)}")


def _differences(config: models.CollectionConfig, vectors: models.VectorParams, settings: IndexSettings, embedding: Embedding) -> Iterator[Difference]:
    stored_name = (config.metadata or {}).get("embedder")
    pairs = (
        ("embedder.model", stored_name, embedding.name),
        ("the embedder's dimension", vectors.size, embedding.dimension),
        ("embedder.similarity", vectors.distance.value.lower(), str(embedding.similarity)),
    )
    yield from (Difference(name, stored, wanted, is_harmless=False) for name, stored, wanted in pairs if stored != wanted)
    params = config.params
    if params.shard_number is None:  # the client's local mode, which stores no layout
        return
    if (stored := _quantization_of(config)) != settings.quantization:
        yield Difference("index.quantization", stored, settings.quantization, is_harmless=False)
    copies = (
        ("index.replication_factor", params.replication_factor, settings.replication_factor),
        ("index.write_consistency_factor", params.write_consistency_factor, settings.write_consistency_factor),
    )
    yield from (Difference(name, has, wanted, is_harmless=(has or 1) > wanted) for name, has, wanted in copies if wanted is not None and (has or 1) != wanted)
    speed = (
        ("index.shards", params.shard_number, settings.shards),
        ("index.vectors_on_disk", bool(vectors.on_disk), settings.vectors_on_disk),
        ("index.payload_on_disk", bool(params.on_disk_payload), settings.payload_on_disk),
        ("hnsw_config.m", config.hnsw_config.m, M),
        ("hnsw_config.payload_m", config.hnsw_config.payload_m, PAYLOAD_M),
    )
    yield from (Difference(name, has, wanted, is_harmless=True) for name, has, wanted in speed if wanted is not None and has != wanted)


def _remedy(errors: list[Difference]) -> str:
    if all(difference.setting.startswith("index.") for difference in errors):
        values = ", ".join(f"{difference.setting}={difference.stored}" for difference in errors)
        return f"Set {values}, or change the collection (PATCH), or choose another index.collection, which is filled from the topic"
    return "Choose another index.collection, which is filled from the topic, or set the embedder that the collection was made with"


def _quantization(kind: Quantization) -> models.QuantizationConfig | None:
    from qdrant_client import models

    match kind:
        case Quantization.NONE:
            return None
        case Quantization.INT8:
            return models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True))
        case Quantization.BINARY:
            return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))


def _quantization_of(config: models.CollectionConfig) -> str:
    """As the setting names it; of a kind without a setting, the client's name."""
    stored = config.quantization_config
    if stored is None:
        return Quantization.NONE
    kinds = {"scalar": Quantization.INT8, "binary": Quantization.BINARY}
    kind: str = next(iter(type(stored).model_fields))
    return kinds.get(kind, kind)
