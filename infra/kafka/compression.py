"""Decompresses the records of a batch, up to a limit. Both Kafka clients use it instead of their own codecs, which have no limit.

A few kilobytes can decompress to gigabytes, and the broker limits only the compressed bytes. Here each codec stops one byte after the limit.
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
#: First bytes of the snappy format of the xerial Java library, which Kafka's own producer writes: a header, then blocks. The header also holds two version
#: numbers, which are not checked, because some producers write wrong ones.
XERIAL, XERIAL_HEADER_BYTES = b"\x82SNAPPY\x00", 16
#: Size of the first read. Most batches fit into it, and a read allocates the size that is requested.
FIRST_READ_BYTES = 1 << 18


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
    """At most `limit` + 1 bytes."""
    content = read(min(FIRST_READ_BYTES, limit) + 1)
    return content + read(limit + 1 - len(content)) if len(content) > FIRST_READ_BYTES else content


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
    """A block begins with its decompressed size, and the package allocates that many bytes. So the size is checked first."""
    if cramjam.snappy.decompress_raw_len(data) > limit:
        raise TooLarge
    return bytes(cramjam.snappy.decompress_raw(data))
