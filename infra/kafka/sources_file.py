"""`sources.toml`: how a platform's own topics become interactions, queries and feedback (docs/sources.md).

[[sources]]
topic = "shop.reviews"
message = "interaction"
when = "value.type == 'review'"
fields = { user = "string(value.user_id)", content = "value.text", response = "string(value.stars)", occurred_at = "epoch_millis(value.at)" }
constants = { tenant = "shop", domain = "product_rating" }
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from infra.errors import BadSetting
from infra.settings import Settings
from infra.settings.texts import Name
from schemas.topics import DEAD_LETTER_SUFFIX, dead_letter_topic, declared_names

#: The longest name of a topic whose dead-letter topic Kafka takes too.
MAX_TOPIC = 249 - len(DEAD_LETTER_SUFFIX)


class SourceFormat(StrEnum):
    """How the values of a topic are written."""

    JSON = "json"
    AVRO = "avro"
    PROTOBUF = "protobuf"


class SourceMessage(StrEnum):
    """What a record becomes."""

    INTERACTION = "interaction"
    QUERY = "query"
    FEEDBACK = "feedback"


class BadSources(BadSetting):
    """The file cannot be used. `problems` has one line for each, which begins with its place, such as `sources[1].fields.user`."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        super().__init__(f"{path}: {'; '.join(problems)}")
        self.path, self.problems = path, tuple(problems)


def _topic(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text) or text in (".", "..") or len(text) > MAX_TOPIC:
        raise ValueError(f"is no topic of Kafka: letters, digits, dots, _ and -, at most {MAX_TOPIC} characters")
    if text in declared_names():
        raise ValueError("is the name of one of Retouch's own topics, whose records need no mapping")
    return text


class SourceSpec(BaseModel):
    """One `[[sources]]` of the file, as it is written there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: Annotated[str, AfterValidator(_topic)]  # the platform's name for it, which never gets kafka.topic_prefix
    message: SourceMessage
    name: Annotated[Name, Field(max_length=100)] = ""  # in errors and metrics, and the cause of derived ids; by default the topic
    format: SourceFormat = SourceFormat.JSON
    when: str | None = None  # records for which this is false are skipped
    fields: dict[str, str] = {}  # by field of the message: an expression
    constants: dict[str, Any] = {}  # by field of the message: a value


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[SourceSpec, ...]


@dataclass(frozen=True)
class SourcesFile:
    path: Path
    sources: tuple[SourceSpec, ...]

    @property
    def topics(self) -> tuple[str, ...]:
        """Each once, in the order of the file."""
        return tuple(dict.fromkeys(source.topic for source in self.sources))


def source_topics(settings: Settings) -> tuple[str, ...]:
    """The platform's topics that the sources worker reads. Raises BadSources."""
    return read_sources(settings.sources.file, settings.kafka.topic_prefix).topics if settings.sources.file else ()


def source_dead_letter_topics(settings: Settings) -> tuple[str, ...]:
    """Their dead-letter topics, which are ours. Raises BadSources."""
    return tuple(map(dead_letter_topic, source_topics(settings)))


def read_sources(path: Path, topic_prefix: str = "") -> SourcesFile:
    """Read the file. Raises BadSources for a wrong form; `workers.sources.mapping` checks the expressions."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSources(path, [f"cannot be read: {error.strerror or type(error).__name__}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSources(path, [f"is not TOML: {error}"]) from None
    try:
        parsed = _File.model_validate(data)
    except ValidationError as error:
        raise BadSources(path, [f"{place(*each['loc'])}: {_text(each)}" for each in error.errors(include_url=False)]) from None
    sources = tuple(source if source.name else source.model_copy(update={"name": source.topic}) for source in parsed.sources)
    if problems := list(_unclear(sources, topic_prefix)):
        raise BadSources(path, problems)
    return SourcesFile(path, sources)


def place(*location: str | int) -> str:
    """`sources[1].fields.user`."""
    return re.sub(r"^\.", "", "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location))


def _text(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return f"no such key; there are {', '.join(SourceSpec.model_fields if len(error['loc']) > 1 else _File.model_fields)}"
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "tuple_type":
        return "must be tables: write [[sources]] for each topic that is read"
    return str(error["msg"]).removeprefix("Value error, ")


def _unclear(sources: tuple[SourceSpec, ...], topic_prefix: str) -> Iterator[str]:
    if not sources:
        yield "sources: is empty; write [[sources]] for each topic that is read"
    names = Counter(source.name for source in sources)
    formats: dict[str, SourceFormat] = {}
    for number, source in enumerate(sources):
        if topic_prefix and source.topic.startswith(topic_prefix) and source.topic.removeprefix(topic_prefix) in declared_names():
            yield f"{place('sources', number, 'topic')}: {source.topic} is one of Retouch's own topics, whose records need no mapping"
        if names[source.name] > 1:
            yield f"{place('sources', number, 'name')}: {source.name} is the name of {names[source.name]} sources; give each a name of its own"
        if formats.setdefault(source.topic, source.format) is not source.format:
            yield f"{place('sources', number, 'format')}: {source.format}, but an earlier source reads {source.topic} as {formats[source.topic]}"
