"""Both Kafka clients read every codec of Kafka. A lock that loses one of the packages behind them fails here, and not on the first compressed batch."""

from __future__ import annotations

from types import ModuleType

import aiokafka.codec
import kafka.codec
import pytest

CLIENTS = {"kafka-python": kafka.codec, "aiokafka": aiokafka.codec}
CODECS = ("gzip", "lz4", "snappy", "zstd")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_client_has_the_codec(client: ModuleType, codec: str) -> None:
    assert getattr(client, f"has_{codec}")()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("writer", "reader"), [(kafka.codec, aiokafka.codec), (aiokafka.codec, kafka.codec)], ids=["to aiokafka", "to kafka-python"])
def test_what_one_client_compresses_the_other_reads(writer: ModuleType, reader: ModuleType, codec: str) -> None:
    records = b"caf\xc3\xa9, again and again. " * 20_000  # several blocks of 32 KiB
    compressed = bytes(getattr(writer, f"{codec}_encode")(records))
    assert len(compressed) < len(records) / 10
    assert bytes(getattr(reader, f"{codec}_decode")(compressed)) == records
