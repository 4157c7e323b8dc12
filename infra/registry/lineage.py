"""Lineage: the data that a version was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetLineage:
    """The data of one training run. `ranges` maps topic and partition to [start, end) offsets; equal ranges give an equal digest."""

    name: str
    digest: str
    ranges: Mapping[str, Mapping[int, tuple[int, int]]]

    def to_json(self) -> str:
        ranges = {topic: {str(p): list(span) for p, span in spans.items()} for topic, spans in self.ranges.items()}
        return json.dumps({"name": self.name, "digest": self.digest, "ranges": ranges}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DatasetLineage:
        content = json.loads(text)
        ranges = {topic: {int(p): (span[0], span[1]) for p, span in spans.items()} for topic, spans in content["ranges"].items()}
        return cls(content["name"], content["digest"], ranges)
