"""Dead letters as `retouch dlq` shows them: as data for `--json`, and as text."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from infra.kafka.dead_letters import TAIL, Letter, Marks, Plan, integer, mark_of
from infra.process.command_output import show, show_json, show_table

#: Reasons shown as text; JSON has all.
REASONS_SHOWN = 20


def at(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds") if unix_ms >= 0 else "unknown"


def summary(letter: Letter, marks: Marks) -> dict[str, Any]:
    """One letter without key, value and the values of its own headers."""
    origin, mark = letter.origin, mark_of(letter, marks)
    return {
        "id": str(letter.place),
        "set_aside_at": at(letter.set_aside_ms),
        "original": {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset} if origin else None,
        "group": origin.group if origin else None,
        "exception": letter.exception,
        "message": letter.message,
        "size_bytes": letter.size_bytes,
        "problem": letter.problem,
        "redriven_at": at(mark.redriven_ms) if mark else None,
        "sent_as": str(mark.sent_as) if mark else None,
    }


def detail(letter: Letter, marks: Marks) -> dict[str, Any]:
    """One letter whole."""
    ours = len(TAIL) if letter.origin else 0
    split = len(letter.headers) - ours
    originals = [{"name": name, **(encoded(content) or {"encoding": None, "content": None})} for name, content in letter.headers[:split]]
    added = [{"name": name, **_decoded(name, content or b"")} for name, content in letter.headers[split:]]
    return {
        **summary(letter, marks),
        "original_headers": originals,
        "dead_letter_headers": added,
        "notes": list(letter.notes),
        "key": encoded(letter.key),
        "value": encoded(letter.value),
    }


def encoded(content: bytes | None) -> dict[str, Any] | None:
    """Text where it is UTF-8, else base64; None for null."""
    if content is None:
        return None
    try:
        return {"encoding": "utf-8", "content": content.decode()}
    except UnicodeDecodeError:
        return {"encoding": "base64", "content": base64.b64encode(content).decode()}


def _decoded(name: str, content: bytes) -> dict[str, Any]:
    if name.rpartition("-")[2] in ("partition", "offset", "timestamp"):
        return {"encoding": "integer", "content": integer(content)}
    return encoded(content) or {}


def flat(content: dict[str, Any] | None) -> str:
    if content is None or content["encoding"] is None:
        return "null"
    return f"base64 {content['content']}" if content["encoding"] == "base64" else str(content["content"])


def show_whole(found: dict[str, Any]) -> None:
    """`detail` as text."""
    names = ("id", "set_aside_at", "group", "exception", "message", "redriven_at", "sent_as", "problem", "size_bytes")
    facts = [(name.replace("_", " "), str(found[name])) for name in names if found[name]]
    headers = [(f"header {header['name']}", flat(header)) for header in found["original_headers"]]
    added = [(f"added {header['name']}", flat(header)) for header in found["dead_letter_headers"]]
    bytes_of = [("key", flat(found["key"])), ("value", flat(found["value"]))]
    rows = [*facts, *headers, *added, *(("note", note) for note in found["notes"]), *bytes_of]
    show_table(("", ""), rows)


def show_list(counts: Counter[tuple[str, str]], rows: Sequence[dict[str, Any]]) -> None:
    if not counts:
        show("no dead letters")
        return
    show_table(("letters", "topic", "reason"), [(str(n), topic, reason) for (topic, reason), n in counts.most_common(REASONS_SHOWN)])
    if len(counts) > REASONS_SHOWN:
        show(f"and {len(counts) - REASONS_SHOWN} further reasons; --json has all")
    if rows:
        show("")
        show_table(("id", "set aside", "from", "group", "exception", "message", "bytes", "redriven"), [_row(row) for row in rows])


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    came = "/".join(map(str, row["original"].values())) if row["original"] else "foreign"
    message = row["message"] if row["original"] else row["problem"]
    return (row["id"], row["set_aside_at"], came, row["group"] or "", row["exception"], message, str(row["size_bytes"]), row["redriven_at"] or "")


def show_redriven(planned: Plan, dry_run: bool, as_json: bool) -> None:
    foreign = [{"id": str(letter.place), "problem": letter.problem} for letter in planned.foreign]
    letters = [
        {"id": str(e.place), "to": f"{e.origin.topic}/{e.origin.partition}", "repeats": [str(place) for place in e.repeats], "notes": list(e.notes)}
        for e in planned.errands
    ]
    if as_json:
        show_json({"dry_run": dry_run, "redriven": 0 if dry_run else len(letters), "letters": letters, "already": planned.already, "foreign": foreign})
        return
    show(f"{'would redrive' if dry_run else 'redrove'} {len(letters)} records; redriven before {planned.already}; foreign, left alone {len(foreign)}")
    for topic, count in Counter(e.origin.topic for e in planned.errands).items():
        show(f"  {topic}: {count}")
    for note, count in Counter(note for e in planned.errands for note in e.notes).items():
        show(f"note for {count}: {note}")
