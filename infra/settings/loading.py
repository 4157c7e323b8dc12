"""Loads the settings. Sources, the later wins: defaults, the TOML file that `RETOUCH_CONFIG` names, the environment (USUAL_NAMES, then
`RETOUCH_SECTION__FIELD`), arguments. An empty variable counts as not set. A secret may come from a file: see `infra.settings.secret_files`."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError, TomlConfigSettingsSource

from infra.errors import BadSetting
from infra.settings.domains import DomainSettings
from infra.settings.hydra import HydraSettings
from infra.settings.models import BaseModelSettings, ReflectionSettings, TeacherSettings
from infra.settings.platform_topics import SourcesSettings
from infra.settings.process import StackSettings, TelemetrySettings
from infra.settings.profiles import ProfilesSettings
from infra.settings.promotion import PromotionSettings, QualitySettings, RegistrySettings
from infra.settings.rewrite_limits import RewriteLimits
from infra.settings.secret_files import SecretFile, secret_files
from infra.settings.strategies import StrategiesSettings
from infra.settings.stream import EmbedderSettings, IndexSettings, KafkaSettings, RetrievalSettings, StreamsSettings, WorkersSettings
from infra.settings.texts import AnyPath, header_list_problem, token_problem
from infra.settings.training import TrainerSettings
from infra.urls import sqlite_url, without_user
from schemas.domains import Domains
from schemas.ids import Identifier
from schemas.messages import Domain
from schemas.prompts import PromptForm, PromptStyle

M = TypeVar("M", bound=BaseModel)

#: Environment variables that other tools use too, and the setting each fills.
USUAL_NAMES = {
    "KAFKA_BOOTSTRAP_SERVERS": ("kafka", "bootstrap_servers"),
    "QDRANT_URL": ("index", "url"),
    "QDRANT_API_KEY": ("index", "api_key"),
    "MLFLOW_TRACKING_URI": ("registry", "tracking_uri"),
    "OPENAI_BASE_URL": ("base", "url"),
    "OPENAI_API_KEY": ("base", "api_key"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("telemetry", "otlp_endpoint"),
}


class Settings(BaseSettings):
    """All sections."""

    model_config = SettingsConfigDict(env_prefix="RETOUCH_", env_nested_delimiter="__", env_ignore_empty=True, frozen=True, extra="forbid")

    tenant: Identifier = "local"  # of the users that the command line names
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    kafka: KafkaSettings = KafkaSettings()
    index: IndexSettings = IndexSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    streams: StreamsSettings = StreamsSettings()
    base: BaseModelSettings = BaseModelSettings()
    reflection: ReflectionSettings = ReflectionSettings()
    sources: SourcesSettings = SourcesSettings()
    strategies: StrategiesSettings = StrategiesSettings()
    domains: dict[Domain, DomainSettings] = {}  # by the domain of queries
    profiles: ProfilesSettings = ProfilesSettings()
    teacher: TeacherSettings = TeacherSettings()
    workers: WorkersSettings = WorkersSettings()
    trainer: TrainerSettings = TrainerSettings()
    hydra: HydraSettings = HydraSettings()
    registry: RegistrySettings = RegistrySettings()
    quality: QualitySettings = QualitySettings()
    promotion: PromotionSettings = PromotionSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    stack: StackSettings = StackSettings()
    ready_file: AnyPath | None = None  # holds the process's id while it is ready; set by the process that starts it and waits

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        items_in_prompts = {
            "reflection.k": self.reflection.k,
            "strategies.k": self.strategies.k,
            "strategies.pag_k": self.strategies.pag_k or 0,
            "trainer.sft.k": self.trainer.sft.k,
            "trainer.sft.k_max": self.trainer.sft.k_max,
            "trainer.rl.k_max": self.trainer.rl.k_max,
        }
        for key, k in items_in_prompts.items():
            if k > self.retrieval.k_max:
                raise ValueError(f"{key}={k} must not exceed retrieval.k_max={self.retrieval.k_max}")
        if self.hydra.model_name == self.registry.model_name:
            raise ValueError(f"hydra.model_name={self.hydra.model_name!r} is the reflection model's name, registry.model_name; it needs one of its own")
        if self.reflection.max_new_tokens >= self.reflection.max_model_len:
            raise ValueError("reflection.max_new_tokens must be below reflection.max_model_len")
        return self

    @model_validator(mode="after")
    def _domains_fit(self) -> Self:
        k_max, limits = self.retrieval.k_max, self.rewrite_limits
        problems = self.entries.problems()
        for name, entry in self.domains.items():
            if (entry.k or 0) > k_max:
                problems.append(f"domains.{name}.k={entry.k}: must not exceed retrieval.k_max={k_max}")
            if entry.max_new_tokens and limits.room < 1:
                problems.append(
                    f"domains.{name}.max_new_tokens={entry.max_new_tokens}: a rewrite has no room for its reasoning and tags: set "
                    f"reflection.max_new_tokens={limits.max_new_tokens} above base.max_new_tokens={limits.answer_tokens}, so that both fit"
                )
            elif entry.max_new_tokens and entry.max_new_tokens >= limits.prompt(name):
                problems.append(
                    f"domains.{name}.max_new_tokens={entry.max_new_tokens}: such an answer does not fit the reflection model's prompt beside its rewrite: "
                    f"use less than {(limits.max_model_len - limits.room + 1) // 2}, or raise reflection.max_model_len={limits.max_model_len}"
                )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def entries(self) -> Domains:
        """The domain entries: the built-in ones, and those of `domains`."""
        return Domains(self.domains)

    @property
    def base_form(self) -> PromptForm:
        """The form of the base model's prompts."""
        return PromptForm(self.base.style, self.entries)

    @property
    def reflection_form(self) -> PromptForm:
        """The form of the reflection model's prompts, in serving and training."""
        return PromptForm(self.reflection.prompt_style, self.entries)

    @property
    def rewrite_limits(self) -> RewriteLimits:
        """Limits of the reflection model's prompts and rewrites, in serving and training."""
        return RewriteLimits(self.reflection.max_model_len, self.reflection.max_new_tokens, self.base.max_new_tokens, self.entries)

    @property
    def paper_form(self) -> PromptForm:
        """The form of prompts for models that are never the tiny ones: an LLM as teacher, and for summaries."""
        return PromptForm(PromptStyle.PAPER, self.entries)

    @property
    def index_dir(self) -> Path:
        return self.stack.dir / "index"

    @property
    def profiles_dir(self) -> Path:
        return self.stack.dir / "profiles"

    @property
    def tracking_uri(self) -> str:
        return self.registry.tracking_uri or sqlite_url((self.stack.dir / "registry" / "mlflow.db").resolve())

    @property
    def artifact_root(self) -> Path:
        """Folder of a SQLite registry's files; an MLflow server stores its own."""
        return (self.stack.dir / "registry" / "artifacts").resolve()

    def bootstrap_servers(self) -> str:
        """The broker's addresses. Raises BadSetting if none is set."""
        if not self.kafka.bootstrap_servers:
            raise BadSetting("kafka.bootstrap_servers is empty: set KAFKA_BOOTSTRAP_SERVERS=host:port, or start the local stack with `retouch up`")
        return self.kafka.bootstrap_servers

    def changed(self, **changes: Any) -> Self:
        """A copy with these values, which are not validated. A dictionary changes fields of a section."""
        return _changed(self, changes)

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
        files = secret_files(settings_cls, USUAL_NAMES)
        assert isinstance(env_settings, EnvSettingsSource)
        names_of_files = {file.variable.lower() for file in files}
        env_settings.env_vars = {name: value for name, value in env_settings.env_vars.items() if name not in names_of_files}
        toml = TomlConfigSettingsSource(settings_cls, Path(path) if path else None)
        return (init_settings, env_settings, _UsualNames(settings_cls, toml), toml, _SecretFiles(settings_cls, files))


class _UsualNames(PydanticBaseSettingsSource):
    """The environment variables of USUAL_NAMES, without a `QDRANT_API_KEY` for which no source has a server: it is in the shell for other tools."""

    def __init__(self, settings_cls: type[BaseSettings], file: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._file = file

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        sections: dict[str, Any] = {}
        for name, (section, field) in USUAL_NAMES.items():
            if value := os.environ.get(name):
                sections.setdefault(section, {})[field] = value
        if not any(_value_in(source, ("index", "url")) for source in (self.current_state, sections, self._file())):
            sections.get("index", {}).pop("api_key", None)
        return sections


class _SecretFiles(PydanticBaseSettingsSource):
    """The secrets in files. The last source: it refuses a secret that one before it has set too, except an argument, which wins."""

    def __init__(self, settings_cls: type[BaseSettings], files: tuple[SecretFile, ...]) -> None:
        super().__init__(settings_cls)
        self._files = files

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        variables: dict[str, str] = {}
        for file in self._files:
            if other := variables.get(file.key) or self._set_by(file):
                raise BadSetting(f"{other} and {file.variable} both set {file.key}: keep one of them")
            variables[file.key] = file.variable
            section = values
            for part in file.parts[:-1]:
                section = section.setdefault(part, {})
            section[file.parts[-1]] = file.secret()
        return values

    def _set_by(self, file: SecretFile) -> str | None:
        """The variable or file whose value the secret has besides."""
        for source, data in self.settings_sources_data.items():
            if source != "InitSettingsSource" and _value_in(data, file.parts):
                usual = next((name for name, parts in USUAL_NAMES.items() if parts == file.parts), "")
                variable = variable_of(file.key)
                by_source = {"EnvSettingsSource": variable if os.environ.get(variable) else f"RETOUCH_{file.parts[0].upper()}", "_UsualNames": usual}
                return by_source.get(source, f"RETOUCH_CONFIG={os.environ.get('RETOUCH_CONFIG')}")
        return None


def _value_in(data: Any, parts: tuple[str, ...]) -> Any:
    for part in parts:
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _changed(model: M, changes: dict[str, Any]) -> M:
    nested = {name: _changed(getattr(model, name), value) if isinstance(value, dict) else value for name, value in changes.items()}
    return model.model_copy(update=nested)


def load(**overrides: Any) -> Settings:
    """Read all sources. Raises BadSetting: one line with the key, its value (secrets hidden) and what would be right."""
    path = os.environ.get("RETOUCH_CONFIG")
    if path and not Path(path).is_file():
        raise BadSetting(f"RETOUCH_CONFIG={path}: no such file; name a TOML file or unset it")
    sections = set(Settings.model_fields)
    for name in os.environ:
        section = name.removeprefix("RETOUCH_").split("__")[0].lower()
        if name.startswith("RETOUCH_") and name != "RETOUCH_CONFIG" and section not in sections:
            raise BadSetting(f"{name}: no such setting; sections are {', '.join(sorted(sections))}")
    try:
        if path and (problems := list(_wrong_types(Settings, tomllib.loads(Path(path).read_text(encoding="utf-8")), ()))):
            raise BadSetting("; ".join(problems))
        settings = Settings(**overrides)
    except ValidationError as error:
        raise BadSetting("; ".join(_explain(e) for e in error.errors(include_url=False))) from None
    except SettingsError as error:
        raise BadSetting(f"{error}: a whole section is one JSON object, a single setting has a name such as RETOUCH_KAFKA__PARTITIONS") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"RETOUCH_CONFIG={path}: not TOML: {error}") from None
    except OSError as error:
        raise BadSetting(f"RETOUCH_CONFIG={path}: cannot be read: {error.strerror or error}") from None
    _check_variables_of_libraries(settings)
    return settings


def _check_variables_of_libraries(settings: Settings) -> None:
    """Checks headers that MLflow and OpenTelemetry read from the environment themselves: they would refuse a bad one at every request, or leave it out."""
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if token and settings.tracking_uri.startswith("http") and (problem := token_problem(token)):
        raise BadSetting(f"MLFLOW_TRACKING_TOKEN: {problem}")
    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        headers = os.environ.get(name)
        if headers and settings.telemetry.otlp_endpoint and (problem := header_list_problem(headers)):
            raise BadSetting(f"{name}: {problem}")


#: What is right, by pydantic's type of the error.
_TYPES = {
    "int_type": "must be a whole number such as 2, without quotes and decimal point",
    "int_from_float": "must be a whole number such as 2, without quotes and decimal point",
    "float_type": "must be a number such as 0.5, without quotes",
    "bool_type": "must be true or false, without quotes",
}


def _wrong_types(model: type[BaseModel], values: Any, above: tuple[str | int, ...]) -> Iterator[str]:
    """Texts and truth values of the file that stand for numbers, and the like. Variables are texts, so the settings themselves must take those for numbers."""
    for name, value in values.items() if isinstance(values, dict) else ():
        field = model.model_fields.get(name)
        if field is None or field.annotation is None or value == "":  # an unknown key, or not set
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _wrong_types(field.annotation, value, (*above, name))
        elif name == "domains" and isinstance(value, dict):
            for domain, entry in value.items():
                yield from _wrong_types(DomainSettings, entry, (*above, name, domain))
        else:
            try:
                TypeAdapter(field.annotation).validate_json(json.dumps(value, default=str), strict=True)
            except ValidationError as error:
                for each in error.errors(include_url=False):
                    if each["type"] in _TYPES:
                        yield _explain(each | {"loc": (*above, name, *each["loc"]), "msg": _TYPES[each["type"]]})


def _explain(error: Any) -> str:
    if not error["loc"] and error["type"] == "value_error":  # of settings that do not fit each other: the text names their keys
        return str(error["msg"].removeprefix("Value error, "))
    key = ".".join(map(str, error["loc"])) or "settings"
    shown = _shown(key, error)
    variable = next((name for name, parts in USUAL_NAMES.items() if ".".join(parts) == key and os.environ.get(name)), None)
    by = f" ({variable})" if variable and not os.environ.get(variable_of(key)) else ""
    text = error["msg"].removeprefix("Value error, ")
    return f"{key}{'' if shown is None else f'={shown!r}'}{by}: {text}"


def variable_of(key: str) -> str:
    """The environment variable of a setting."""
    return "RETOUCH_" + key.upper().replace(".", "__")


def _shown(key: str, error: Any) -> Any:
    """The value for an error, or None if it may hold a secret: the value of an unknown key, or a text in place of a section, may be one.

    A URL is shown without its user and its query. A text that still has an `@` is not shown.
    """
    value = error["input"]
    if error["type"] in ("extra_forbidden", "model_type", "model_attributes_type") or not isinstance(value, str | int | float | Path):
        return None
    if key.endswith(("password", "api_key", "token", "secret")) or ".parameters" in key:
        return None
    if not isinstance(value, str):
        return str(value) if isinstance(value, Path) else value
    text = without_user(value)
    if "://" in text or key.endswith(("url", "uri", "endpoint")):
        text = re.sub(r"[?].*", "?...", text, flags=re.DOTALL)
    return None if "@" in text else text
