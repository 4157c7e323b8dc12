"""Maps one decoded record to messages, by the expressions of `sources.toml`. Pure: the same record gives the same messages.

All sources of a topic map a record, or none does: a record that becomes a dead letter has produced nothing, so a redrive repeats nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from infra.errors import PoisonMessage
from infra.kafka.sources_file import BadSources, SourceMessage, SourcesFile, SourceSpec, place
from schemas.feedback import Feedback
from schemas.ids import derive
from schemas.interactions import Interaction
from schemas.messages import Message
from schemas.positions import Source as RecordPosition
from schemas.queries import Query
from schemas.topics import FEEDBACK, INTERACTIONS, QUERIES, Topic
from workers.sources.expressions import Expression, ExpressionFailed, RecordValues
from workers.sources.field_types import FieldType, WrongType, kind_of


@dataclass(frozen=True)
class Target:
    """What a message needs. `id_field` may be left out of a mapping: then the record's position makes the id."""

    topic: Topic
    model: type[Message]
    id_field: str
    types: Mapping[str, FieldType]


_USER = {"tenant": FieldType.TEXT, "user": FieldType.TEXT}
TARGETS = {
    SourceMessage.INTERACTION: Target(
        INTERACTIONS,
        Interaction,
        "interaction_id",
        _USER
        | {"interaction_id": FieldType.ID, "domain": FieldType.TEXT, "content": FieldType.TEXT, "response": FieldType.TEXT, "occurred_at": FieldType.TIME},
    ),
    SourceMessage.QUERY: Target(
        QUERIES,
        Query,
        "query_id",
        _USER
        | {"query_id": FieldType.ID, "domain": FieldType.TEXT, "text": FieldType.TEXT, "options": FieldType.TEXTS}
        | {"asked_at": FieldType.TIME, "deadline": FieldType.TIME, "strategy": FieldType.TEXT},
    ),
    SourceMessage.FEEDBACK: Target(
        FEEDBACK,
        Feedback,
        "feedback_id",
        _USER | {"feedback_id": FieldType.ID, "query_id": FieldType.ID, "truth": FieldType.TEXT, "score": FieldType.NUMBER, "occurred_at": FieldType.TIME},
    ),
}
#: What an id field's value identifies: a query and its feedback derive the same id from the same text.
_ID_KINDS = {"interaction_id": "interaction", "query_id": "query", "feedback_id": "feedback"}


class Unmappable(PoisonMessage):
    """A record that a source does not map. The text never holds the record's values."""

    def __init__(self, source: str, reason: str, field: str = "", expression: str = "") -> None:
        where = f"source {source}, {f'{field}: ' if field else ''}"
        super().__init__(f"{where}{reason}" + (f"; the expression is {expression}" if expression else ""))
        self.source, self.reason, self.field, self.expression = source, reason, field, expression


@dataclass(frozen=True)
class MappedMessage:
    source: str
    topic: Topic
    message: Message
    id: object


class SourceMapping:
    """One source with its compiled expressions (`compile_sources`)."""

    def __init__(self, spec: SourceSpec, when: Expression | None, fields: Mapping[str, Expression], constants: Mapping[str, object]) -> None:
        self.spec = spec
        self._when, self._fields, self._constants = when, fields, constants
        self._target = TARGETS[spec.message]

    def map(self, values: RecordValues, position: RecordPosition) -> MappedMessage | None:
        """None for a record that `when` leaves out. Raises Unmappable."""
        if self._when is not None:
            wanted = self._evaluate("when", self._when, values)
            if not isinstance(wanted, bool):
                raise self._failed("when", f"gives {kind_of(wanted)}, expected true or false")
            if not wanted:
                return None
        found: dict[str, Any] = dict(self._constants)
        for field, expression in self._fields.items():
            result = self._evaluate(field, expression, values)
            if result is None and field not in _required(self._target):
                continue
            try:
                found[field] = self._target.types[field].read(result)
            except WrongType as error:
                raise self._failed(field, str(error)) from None
        return self._message(found, position)

    def _message(self, found: dict[str, Any], position: RecordPosition) -> MappedMessage:
        target = self._target
        owner = (found["tenant"], found["user"])
        for field, kind in _ID_KINDS.items():
            if isinstance(found.get(field), str):
                found[field] = derive(kind, *owner, found[field])
        found.setdefault(target.id_field, derive(f"source-{self.spec.message}", *owner, self.spec.name, position.topic, position.partition, position.offset))
        try:
            message = target.model.model_validate(found, context={"message": target.model})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = str(first["loc"][0]) if first["loc"] else ""
            raise self._failed(field, first["msg"].removeprefix("Value error, ")) from None
        return MappedMessage(self.spec.name, target.topic, message, getattr(message, target.id_field))

    def _evaluate(self, field: str, expression: Expression, values: RecordValues) -> object:
        try:
            return expression.evaluate(values)
        except ExpressionFailed as error:
            raise self._failed(field, str(error)) from None

    def _failed(self, field: str, reason: str) -> Unmappable:
        expression = self._when if field == "when" else self._fields.get(field)
        return Unmappable(self.spec.name, reason, field, expression.text if expression else "")


def map_record(mappings: Sequence[SourceMapping], value: object, record: Mapping[str, object], position: RecordPosition) -> list[MappedMessage]:
    """The messages of all sources of the record's topic. Raises Unmappable."""
    try:
        values = RecordValues(value, record)
    except ExpressionFailed as error:
        raise Unmappable(mappings[0].spec.name, str(error)) from None
    mapped = [mapping.map(values, position) for mapping in mappings]
    return [message for message in mapped if message is not None]


def compile_sources(file: SourcesFile) -> list[SourceMapping]:
    """Raises BadSources with every expression that does not parse, every field that a message does not have, and every one that is missing."""
    problems: list[str] = []
    mappings = [_compile(spec, f"sources[{number}]", problems) for number, spec in enumerate(file.sources)]
    if problems:
        raise BadSources(file.path, problems)
    return mappings


def _compile(spec: SourceSpec, where: str, problems: list[str]) -> SourceMapping:
    """Adds what is wrong to `problems`."""
    target = TARGETS[spec.message]
    for table, names in (("fields", spec.fields), ("constants", spec.constants)):
        for field in names:
            if field not in target.types:
                problems.append(f"{where}.{place(table, field)}: {spec.message} has no such field; it has {', '.join(target.types)}")
    for field in spec.fields.keys() & spec.constants.keys():
        problems.append(f"{where}.{place('constants', field)}: is an expression in fields too; keep one of them")
    for field in _required(target):
        if field not in spec.fields and field not in spec.constants:
            problems.append(f"{where}.{place('fields', field)}: is missing; write its expression there, or its value in constants")
    when = None if spec.when is None else _expression(spec.when, f"{where}.when", problems)
    fields = {field: _expression(text, f"{where}.{place('fields', field)}", problems) for field, text in spec.fields.items()}
    constants: dict[str, object] = {}
    for field, value in spec.constants.items():
        _check(target, field, value, f"{where}.{place('constants', field)}", constants, problems)
    for field, expression in fields.items():
        if expression and expression.is_constant:
            _check_constant_expression(target, field, expression, f"{where}.{place('fields', field)}", problems)
    return SourceMapping(spec, when, {field: expression for field, expression in fields.items() if expression}, constants)


def _check_constant_expression(target: Target, field: str, expression: Expression, where: str, problems: list[str]) -> None:
    try:
        result = expression.evaluate()
    except ExpressionFailed as error:
        problems.append(f"{where}: {error}")
        return
    if result is not None or field in _required(target):
        _check(target, field, result, where, {}, problems)


def _check(target: Target, field: str, value: object, where: str, accepted: dict[str, object], problems: list[str]) -> None:
    """Adds the value as the message takes it to `accepted`, or what is wrong to `problems`."""
    if field not in target.types:
        return
    try:
        accepted[field] = _constant(target, field, value)
    except ValueError as error:
        problems.append(f"{where}: {error}")


def _expression(text: str, where: str, problems: list[str]) -> Expression | None:
    try:
        return Expression(text)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return None


def _constant(target: Target, field: str, value: object) -> object:
    """Raises ValueError for a value that no message takes in this field."""
    read = target.types[field].read(value)
    if target.types[field] is not FieldType.ID:
        info = target.model.model_fields[field]
        try:
            TypeAdapter(info.rebuild_annotation()).validate_python(read)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    return read


def _required(target: Target) -> list[str]:
    return [field for field in target.types if target.model.model_fields[field].is_required() and field != target.id_field]
