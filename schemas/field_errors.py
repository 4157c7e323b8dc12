"""Why a message is refused, for its producer: the field, the kind of error, and what would be right. Never a value of the record.

Pydantic's own texts can hold a part of a value, such as a character of an id. So only the limits in them are used, which are those of the contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from pydantic_core.core_schema import ErrorType

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

#: Maximum number of errors that are named.
NAMED = 5
_TIME = "write RFC 3339 with an offset, such as 2026-01-31T18:00:00Z"
_EXPECTED = {
    "missing": "the field is required",
    "json_invalid": "write one JSON object",
    "model_type": "write a JSON object",
    "uuid_parsing": "write a UUID",
    "uuid_type": "write a UUID as text",
    "string_type": "write a text",
    "string_too_short": "write at least {min_length} characters",
    "string_too_long": "write at most {max_length} characters",
    "string_pattern_mismatch": "write a text that matches {pattern}",
    "tuple_type": "write a list",
    "too_long": "write at most {max_length} entries",
    "enum": "write {expected}",
    "float_type": "write a number",
    "float_parsing": "write a number",
    "finite_number": "write a finite number",
    "greater_than_equal": "write {ge} or more",
    "less_than_equal": "write {le} or less",
    "timezone_aware": _TIME,
    "datetime_type": _TIME,
    "datetime_parsing": _TIME,
    "datetime_from_date_parsing": _TIME,
}
_PYDANTICS_OWN = frozenset(get_args(ErrorType))


def field_errors(error: ValidationError) -> str:
    """`field: kind (what would be right)` of the first errors."""
    errors = [_one(each) for each in error.errors(include_input=False, include_url=False)]
    return "; ".join(errors[:NAMED]) + (f"; and {len(errors) - NAMED} more" if len(errors) > NAMED else "")


def _one(error: ErrorDetails) -> str:
    named = f"{'.'.join(map(str, error['loc'])) or 'value'}: {error['type']}"
    return f"{named} ({expected})" if (expected := _expected(error)) else named


def _expected(error: ErrorDetails) -> str | None:
    """Empty for a kind without an entry. The texts of our own validators hold no values."""
    if error["type"] not in _PYDANTICS_OWN:
        return error["msg"]
    template = _EXPECTED.get(error["type"])
    return template and template.format_map(error.get("ctx", {}))
