"""Decompresses the records of a batch, up to a limit. Both Kafka clients read through it: their own codecs allocate whatever the bytes ask for.

A few kilobytes can ask for gigabytes, and the broker measures only compressed batches. So each codec stops one byte behind the limit here.
"""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable

import cramjam
import lz4.frame
import zstandard
from kafka.errors import UnsupportedCodecError

#: By the number in a batch's attributes.
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
#: How xerial's Java library, and so Kafka's own producer, begins a sequence of snappy blocks. Two version numbers follow, which some producers write wrongly.
XERIAL, XERIAL_HEADER_BYTES = b"\x82SNAPPY\x00", 16
SMALL = 1 << 18  # bytes


class TooLarge(ValueError):
    """Decompressed data would exceed the limit."""


def codec_name(number: int) -> str:
    return CODECS[number] if number < len(CODECS) else f"{number}, which Kafka does not have"


def decompressed(codec: int, data: bytes, limit: int) -> bytes:
    """The decompressed `data`. Raises TooLarge above `limit` bytes, allocating no more than that, and an error of the codec's package for damaged data."""
    match CODECS[codec : codec + 1]:
        case ("none",):
            return data
        case ("gzip",):
            content = _read(gzip.GzipFile(fileobj=io.BytesIO(data)).read, limit)
        case ("snappy",):
            content = _snappy(data, limit)
        case ("lz4",):
            content = _read(lz4.frame.open(io.BytesIO(data)).read, limit)
        case ("zstd",):
            content = _read(zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read, limit)
        case _:
            raise UnsupportedCodecError(codec_name(codec))
    if len(content) > limit:
        raise TooLarge
    return content


def _read(read: Callable[[int], bytes], limit: int) -> bytes:
    """At most `limit` + 1 bytes. A read allocates the size that it is asked for, and most batches are small."""
    content = read(min(SMALL, limit) + 1)
    return content + read(limit + 1 - len(content)) if len(content) > SMALL else content


def _snappy(data: bytes, limit: int) -> bytes:
    if not data.startswith(XERIAL):
        return _snappy_block(data, limit)
    blocks, position, left = [], XERIAL_HEADER_BYTES, limit
    while position < len(data):
        (size,) = struct.unpack_from(">I", data, position)
        begin, position = position + 4, position + 4 + size
        blocks.append(_snappy_block(data[begin:position], left))
        left -= len(blocks[-1])
    return b"".join(blocks)


def _snappy_block(data: bytes, limit: int) -> bytes:
    """The length comes first, and the package allocates it."""
    if cramjam.snappy.decompress_raw_len(data) > limit:
        raise TooLarge
    return bytes(cramjam.snappy.decompress_raw(data))
