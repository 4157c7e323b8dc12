"""Damages batches in the segment files of a running broker, as a disk or a producer with a fault would. The broker opens no batch that it serves."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import crc32c

from lab.chaos.segments import BEFORE_LENGTH, HEADER, partitions

#: Positions inside the header: the checksum, and what it covers, which begins with the attributes.
_CRC, _COVERED = struct.calcsize(">qiib"), struct.calcsize(">qiibI")
CODEC_BITS = 0x07


def set_checksum(batch: bytearray) -> None:
    struct.pack_into(">I", batch, _CRC, crc32c.crc32c(bytes(batch[_COVERED:])))


def broken_payload(batch: bytearray) -> None:
    """Overwrites the records, and makes the checksum match."""
    batch[HEADER.size :] = b"\xff" * (len(batch) - HEADER.size)
    set_checksum(batch)


def unknown_codec(batch: bytearray) -> None:
    batch[_COVERED + 1] |= CODEC_BITS
    set_checksum(batch)


def wrong_checksum(batch: bytearray) -> None:
    batch[-1] ^= 0xFF


def damage(data: Path, topic: str, partition: int, offset: int, how: Callable[[bytearray], None]) -> None:
    """Changes the batch that holds `offset`, in its place. `data` is the broker's `log.dirs`."""
    for segment in sorted(partitions(data, topic)[partition].glob("*.log")):
        content, position = segment.read_bytes(), 0
        while position + HEADER.size <= len(content):
            first, length, _, _, _, _, last_delta, *_ = HEADER.unpack_from(content, position)
            end = position + BEFORE_LENGTH + length
            if length and first <= offset <= first + last_delta:
                batch = bytearray(content[position:end])
                how(batch)
                with segment.open("r+b") as file:
                    file.seek(position)
                    file.write(batch)
                return
            position = end
    raise ValueError(f"no batch of {topic}-{partition} holds offset {offset}")
