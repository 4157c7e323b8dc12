"""Field expressions in CEL, the Common Expression Language (https://cel.dev), of the package `common-expression-language`.

An expression sees `value`, the decoded record, and `record` with its key, headers, timestamp and position. CEL has no loops without an end and no effects.
The reasons of a failure never hold the record's values: the library's own texts do, so each is replaced by one of ours.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import cel

from workers.sources.functions import FUNCTIONS

VARIABLES = ("value", "record")
#: The longest expression. The library's parser has no bound of its own.
MAX_CHARS = 2_000
#: The library overflows the C stack at deeper values.
MAX_DEPTH = 100
#: Whole numbers outside are texts of their digits: CEL would make them decimals, which lose digits.
MIN_INT, MAX_INT = -(2**63), 2**64 - 1
#: CEL's functions that the library has.
STANDARD = frozenset(
    {
        *("size", "contains", "startsWith", "endsWith", "matches", "string", "int", "uint", "double", "bytes", "duration", "timestamp", "type", "dyn"),
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    }
)
_OPERATOR = re.compile(r"\W|_")  # operators are named like _+_ and @in
_BOUND = re.compile(r"\.(?:all|exists|exists_one|filter|map)\s*\(\s*(\w+)\s*,")
_OWN_ERROR = re.compile(r"Python function call failed: ValueError: (.*?)\. Check function")
_FUNCTION = re.compile(r"Function '(\w+)' error")
_UNKNOWN = re.compile(r"Undefined variable or function: '(\w+)'")
_OPERANDS = re.compile(r"Unsupported operation: [a-z_]+ \S{1,2} [a-z_]+")
_SYNTAX = re.compile(r"<input>:\d+:(\d+): (?:Syntax error: )?([^\n{]*)")

logging.getLogger("cel").disabled = True  # it logs the errors of our functions a second time


class ExpressionFailed(ValueError):
    """An expression has no result for a record. The text is the reason, without the record's values."""


class Expression:
    """One compiled expression. Raises ValueError, with what is wrong, for a text that is none."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._program = _compiled(text)
        references = self._program.references()
        bound = set(_BOUND.findall(text))
        if unknown := sorted(set(references["variables"]) - {*VARIABLES, *bound}):
            raise ValueError(f"{unknown[0]} is no name here: a record's fields are value.NAME, its key and headers record.NAME, and a text has quotes")
        if unknown := sorted(name for name in references["functions"] if not _OPERATOR.match(name) and name not in STANDARD and name not in FUNCTIONS):
            raise ValueError(f"{unknown[0]}() is no function here: there are {', '.join(sorted((*STANDARD, *FUNCTIONS)))}")
        self.is_constant = not references["variables"]

    def evaluate(self, values: RecordValues | None = None) -> object:
        """Raises ExpressionFailed."""
        try:
            return self._program.execute(values.context if values else cel.Context({}, dict(FUNCTIONS)))
        except (KeyboardInterrupt, SystemExit, asyncio.CancelledError, MemoryError):
            raise
        except BaseException as error:  # a panic of the library is no Exception
            raise ExpressionFailed(self._reason(error)) from None

    def _reason(self, error: BaseException) -> str:
        text = str(error)
        match error:
            case KeyError():
                name = str(error.args[0]) if error.args else ""
                is_written = name and re.search(rf"\b{re.escape(name)}\b", self.text)  # else it may be a value of the record
                return f"there is no field {name}" if is_written else "there is no such field"
            case IndexError():
                return "the list has no such element"
            case ZeroDivisionError():
                return "it divides by zero"
            case OverflowError():
                return "a number or time is out of range"
            case TypeError():
                operands = _OPERANDS.match(text)
                return f"{operands[0][0].lower()}{operands[0][1:]}" if operands else "an operand has a type that the operation does not take, such as null"
        if own := _OWN_ERROR.search(text):
            return own[1]
        if function := _FUNCTION.search(text):
            return f"{function[1]}() does not take this argument"
        if unknown := _UNKNOWN.search(text):
            return f"{unknown[1]}() does not take arguments of these types, such as null"
        return "it cannot be evaluated"


def _compiled(text: str) -> cel.Program:
    if len(text) > MAX_CHARS:
        raise ValueError(f"has {len(text)} characters: an expression has at most {MAX_CHARS}")
    try:
        return cel.compile(text)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        syntax = _SYNTAX.search(str(error))
        raise ValueError(f"is no expression in CEL: column {syntax[1]}: {syntax[2].strip()}" if syntax else "is no expression in CEL") from None


class RecordValues:
    """The values that the expressions see of one record. Raises ExpressionFailed for a value that CEL cannot hold."""

    def __init__(self, value: object, record: Mapping[str, object]) -> None:
        try:
            self.context = cel.Context({"value": plain(value), "record": dict(record)}, dict(FUNCTIONS))
        except (ValueError, OverflowError) as error:
            raise ExpressionFailed(str(error) if isinstance(error, ExpressionFailed) else "its value holds something that CEL cannot hold") from None


def plain(value: object, depth: int = 0) -> object:
    """`value` as CEL takes it. Numbers beyond 64 bits, decimals, UUIDs, dates, and times without an offset become texts."""
    if value is None or isinstance(value, str | float | bool | bytes | timedelta):
        return value
    if isinstance(value, int):
        return value if MIN_INT <= value <= MAX_INT else str(value)
    if depth >= MAX_DEPTH:
        raise ExpressionFailed(f"its value is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        return {name: plain(each, depth + 1) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, depth + 1) for each in value]
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise ExpressionFailed(f"its value holds a {type(value).__name__}, which expressions do not take")
