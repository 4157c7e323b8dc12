"""One client of each kind, which connects to a broker and is answered: admin, producer and reader of kafka-python, and a producer of aiokafka."""

from __future__ import annotations

import asyncio
from contextlib import closing

from aiokafka import AIOKafkaProducer
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from infra.kafka.clients import admin, producer
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.topics import QUERIES
from streams.app.credentials import credentials

#: A bound for a busy machine.
WAIT_S = 60.0


def check_clients(settings: Settings) -> None:
    """Each client connects and is answered."""
    with closing(admin(settings)) as client:
        assert QUERIES.name in client.list_topics()
    with closing(producer(settings, "test-security")) as sender:
        sender.send(QUERIES.name, value=b"1", key=b"k").get(timeout=WAIT_S)
    with TopicReader(settings, "test-security") as reader:
        assert QUERIES.name in reader.topics()
    asyncio.run(check_faust(settings))


async def check_faust(settings: Settings) -> None:
    """A producer of aiokafka with the credentials that the Faust app has."""
    options = credentials_to_aiokafka_auth(credentials(settings.kafka))
    sender = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers, **options)
    try:
        await sender.start()
        await asyncio.wait_for(sender.send_and_wait(QUERIES.name, value=b"1", key=b"k"), WAIT_S)
    finally:
        await sender.stop()
