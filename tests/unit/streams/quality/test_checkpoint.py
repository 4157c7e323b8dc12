"""Checkpoints as they are stored in the commit's metadata."""

from __future__ import annotations

from uuid import UUID

from streams.quality.checkpoint import PartitionCheckpoint

STORED = '{"read_to":9,"released":1.5,"clock":3.25,"live":["00000000-0000-0000-0000-000000000001"],"ended":["00000000-0000-0000-0000-000000000002"]}'


def test_a_checkpoint_that_an_earlier_version_committed_still_opens() -> None:
    checkpoint = PartitionCheckpoint(read_to=9, released=1.5, clock=3.25, live=(UUID(int=1),), ended=(UUID(int=2),))
    assert PartitionCheckpoint.parse(STORED) == checkpoint
    assert checkpoint.model_dump_json(exclude_defaults=True) == STORED
