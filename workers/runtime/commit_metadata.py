"""Offset map: the finished offsets above a committed position, as text for the commit's metadata.

Without it, the next reader would handle again all records that finished out of order. The text is `rt1` + kind + base64url. The kind is
the shorter of two encodings of `[position, end)`:

- `b`, a bitmap: one bit for each offset, most significant first, 1 if it is finished;
- `r`, run lengths: varints, alternately unfinished and finished, beginning with unfinished.

The idea is that of Confluent's Parallel Consumer; the encoding is our own. Offsets without a record (transaction markers, compacted records)
count as finished. A bitmap takes a sixth of a byte for each offset: Kafka's default `offset.metadata.max.bytes` of 4,096 holds any map of
up to 24,500 offsets, and longer ones if their runs are long.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

PREFIX = "rt1"
BITMAP, RUNS = "b", "r"
#: No worker reads further ahead: another program wrote a map of more offsets.
MAX_OFFSETS = 10_000_000


class UnreadableMetadata(ValueError):
    """Metadata that another program wrote, or that is damaged."""


def encode(position: int, end: int, unfinished: Iterable[int]) -> str:
    """`unfinished`: ascending offsets in `[position, end)`; the others are finished. Returns an empty text if none is finished."""
    if end <= position:
        return ""
    holes = [offset - position for offset in unfinished]
    span = end - position
    if len(holes) == span:
        return ""
    runs = _runs(span, holes, at_most=_bitmap_bytes(span))
    kind, content = (BITMAP, _bitmap(span, holes)) if runs is None else (RUNS, runs)
    return PREFIX + kind + base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def longest(span: int) -> int:
    """Length of the longest text that a map of `span` offsets can have."""
    return len(PREFIX) + 1 + (_bitmap_bytes(span) * 4 + 2) // 3


def decode(position: int, text: str) -> tuple[int, tuple[int, ...]]:
    """Returns `(end, unfinished)` as given to `encode`. Without a map `end` is the position. Raises UnreadableMetadata."""
    if not text:
        return position, ()
    kind = text[len(PREFIX) : len(PREFIX) + 1]
    if not text.startswith(PREFIX) or kind not in (BITMAP, RUNS):
        raise UnreadableMetadata("it does not begin with rt1b or rt1r")
    encoded = text[len(PREFIX) + 1 :]
    try:
        content = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableMetadata("it is not base64") from error
    span, holes = _from_bitmap(content) if kind == BITMAP else _from_runs(content)
    return position + span, tuple(position + hole for hole in holes)


def _bitmap_bytes(span: int) -> int:
    return span // 8 + 1


def _bitmap(span: int, holes: Iterable[int]) -> bytes:
    """A 1 after the last offset ends the map; the rest of the byte is 0."""
    bits = bytearray(b"\xff") * _bitmap_bytes(span)
    for hole in holes:
        bits[hole >> 3] &= 0xFF ^ (0x80 >> (hole & 7))
    bits[-1] &= (0xFF00 >> (span % 8 + 1)) & 0xFF
    return bytes(bits)


def _from_bitmap(content: bytes) -> tuple[int, list[int]]:
    if not content or not content[-1]:
        raise UnreadableMetadata("its bitmap has no end")
    trailing = (content[-1] & -content[-1]).bit_length() - 1
    span = 8 * len(content) - trailing - 1
    return span, [index for index in range(span) if not content[index >> 3] & (0x80 >> (index & 7))]


def _runs(span: int, holes: list[int], at_most: int) -> bytes | None:
    """Returns None if the runs take `at_most` bytes or more."""
    out = bytearray()
    at = 0  # everything before it is encoded
    index = 0
    while at < span:
        first = index
        while index < len(holes) and holes[index] == at + index - first:
            index += 1
        unfinished = index - first
        following = holes[index] if index < len(holes) else span
        _append_varint(out, unfinished)
        _append_varint(out, following - at - unfinished)
        if len(out) >= at_most:
            return None
        at = following
    return bytes(out)


def _from_runs(content: bytes) -> tuple[int, list[int]]:
    at = 0
    holes: list[int] = []
    for index, length in enumerate(_varints(content)):
        if at + length > MAX_OFFSETS:
            raise UnreadableMetadata(f"its runs cover more than {MAX_OFFSETS} offsets")
        if index % 2 == 0:
            holes.extend(range(at, at + length))
        at += length
    return at, holes


def _append_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _varints(content: bytes) -> Iterable[int]:
    value = shift = 0
    for byte in content:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            yield value
            value = shift = 0
    if shift:
        raise UnreadableMetadata("its last number is cut off")
