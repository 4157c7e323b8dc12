"""Decompression with a limit, of what both clients' own codecs write. If a codec's package is missing, a test here fails."""

from __future__ import annotations

import tracemalloc
import zlib
from types import ModuleType

import aiokafka.codec
import cramjam
import kafka.codec
import lz4.frame
import pytest
import zstandard
from kafka.errors import UnsupportedCodecError

from infra.kafka.compression import CODECS, FIRST_READ_BYTES, TooLarge, decompressed

WRITERS = {"kafka-python": kafka.codec, "aiokafka": aiokafka.codec}
RECORDS = b"caf\xc3\xa9, again and again. " * 20_000  # several blocks of 32 KiB
LIMIT = 1 << 20


@pytest.mark.parametrize("codec", CODECS[1:])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_what_a_client_compresses_is_read(writer: ModuleType, codec: str) -> None:
    compressed = bytes(getattr(writer, f"{codec}_encode")(RECORDS))
    assert len(compressed) < len(RECORDS) / 10
    assert decompressed(CODECS.index(codec), compressed, LIMIT) == RECORDS


@pytest.mark.parametrize("codec", CODECS[1:])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("size", [1, FIRST_READ_BYTES - 1, FIRST_READ_BYTES, FIRST_READ_BYTES + 1, FIRST_READ_BYTES + 2])
def test_the_limit_is_exact(writer: ModuleType, codec: str, size: int) -> None:
    content = (RECORDS * 2)[:size]
    compressed = bytes(getattr(writer, f"{codec}_encode")(content))
    assert decompressed(CODECS.index(codec), compressed, size) == content
    with pytest.raises(TooLarge):
        decompressed(CODECS.index(codec), compressed, size - 1)


def bombs() -> dict[str, bytes]:
    """Each with at least 64 MiB of zeros, in the codec's shortest form."""
    zeros, gzip, lz4_frame, zstd = bytes(LIMIT), zlib.compressobj(9, wbits=31), lz4.frame.LZ4FrameCompressor(), zstandard.ZstdCompressor().compressobj()
    return {
        "gzip": b"".join(gzip.compress(zeros) for _ in range(64)) + gzip.flush(),
        "snappy": bytes(cramjam.snappy.compress_raw(bytes(64 * LIMIT))),
        "lz4": lz4_frame.begin() + b"".join(lz4_frame.compress(zeros) for _ in range(64)) + lz4_frame.flush(),
        "zstd": b"".join(zstd.compress(zeros) for _ in range(64)) + zstd.flush(),
    }


def test_more_than_the_limit_is_never_allocated() -> None:
    compressed = bombs()
    compressed["snappy, a length alone"] = b"\xff\xff\xff\xff\x0f"  # 4 GiB
    compressed["snappy, blocks"] = kafka.codec.snappy_encode(bytes(2 * LIMIT))
    for name, data in compressed.items():
        tracemalloc.start()
        try:
            with pytest.raises(TooLarge):
                decompressed(CODECS.index(name.split(",")[0]), data, LIMIT)
            assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT, name
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4"])  # zstd's package reads a part; the record format finds that the rest is missing
def test_truncated_data_is_an_error(codec: str) -> None:
    compressed = getattr(kafka.codec, f"{codec}_encode")(RECORDS)
    for end in (1, len(compressed) // 2, len(compressed) - 1):
        with pytest.raises(Exception, match=r".") as raised:
            decompressed(CODECS.index(codec), compressed[:end], LIMIT)
        assert not isinstance(raised.value, TooLarge)


def test_a_codec_that_kafka_does_not_have_is_refused() -> None:
    with pytest.raises(UnsupportedCodecError, match="which Kafka does not have"):
        decompressed(7, RECORDS, LIMIT)
