"""Output of `retouch dlq`: dead letters as data for `--json`, and as text."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from infra.kafka.dead_letters import RecordId, RedrivePlan, RedriveRecords, StoredDeadLetter, integer, last_redrive
from infra.kafka.names import KafkaNames
from infra.process.command_output import show, show_json, show_table

#: Maximum number of reasons in the text; JSON has all.
MAX_REASONS = 20
#: End of the year 9999 in UTC, in Unix milliseconds: `datetime` has no later time.
END_MS = 253_402_300_800_000


def time_text(unix_ms: int) -> str:
    """ISO 8601, or "unknown" for a negative time and for one after the year 9999: producers may set any timestamp."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds") if 0 <= unix_ms < END_MS else "unknown"


def place(id: RecordId, names: KafkaNames) -> str:
    """TOPIC/PARTITION/OFFSET, with the broker's name of the topic."""
    return str(replace(id, topic=names.topic(id.topic)))


def summary(dead_letter: StoredDeadLetter, redrives: RedriveRecords, names: KafkaNames) -> dict[str, Any]:
    """One dead letter without key, value and the values of its original headers. Topics and groups have the broker's names."""
    origin, redriven = dead_letter.origin, last_redrive(dead_letter, redrives)
    return {
        "id": place(dead_letter.id, names),
        "set_aside_at": time_text(dead_letter.set_aside_ms),
        "original": {"topic": names.topic(origin.topic), "partition": origin.partition, "offset": origin.offset} if origin else None,
        "group": names.group(origin.group) if origin else None,
        "exception": dead_letter.exception,
        "message": dead_letter.message,
        "size_bytes": dead_letter.size_bytes,
        "problem": dead_letter.problem,
        "redriven_at": time_text(redriven.redriven_ms) if redriven else None,
        "sent_as": place(redriven.sent_as, names) if redriven else None,
    }


def detail(dead_letter: StoredDeadLetter, redrives: RedriveRecords, names: KafkaNames) -> dict[str, Any]:
    """One dead letter with all its bytes."""
    split = len(dead_letter.original_headers)
    originals = [{"name": name, **(encoded(content) or {"encoding": None, "content": None})} for name, content in dead_letter.headers[:split]]
    added = [{"name": name, **_decoded(name, content or b"")} for name, content in dead_letter.headers[split:]]
    return {
        **summary(dead_letter, redrives, names),
        "original_headers": originals,
        "dead_letter_headers": added,
        "notes": list(dead_letter.notes),
        "key": encoded(dead_letter.key),
        "value": encoded(dead_letter.value),
    }


def encoded(content: bytes | None) -> dict[str, Any] | None:
    """UTF-8 text, or base64 if it is not UTF-8. None for null."""
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


def _text(content: dict[str, Any] | None) -> str:
    if content is None or content["encoding"] is None:
        return "null"
    return f"base64 {content['content']}" if content["encoding"] == "base64" else str(content["content"])


def show_detail(content: dict[str, Any]) -> None:
    """`detail` as text."""
    names = ("id", "set_aside_at", "group", "exception", "message", "redriven_at", "sent_as", "problem", "size_bytes")
    facts = [(name.replace("_", " "), str(content[name])) for name in names if content[name]]
    headers = [(f"header {header['name']}", _text(header)) for header in content["original_headers"]]
    added = [(f"added {header['name']}", _text(header)) for header in content["dead_letter_headers"]]
    key_and_value = [("key", _text(content["key"])), ("value", _text(content["value"]))]
    rows = [*facts, *headers, *added, *(("note", note) for note in content["notes"]), *key_and_value]
    show_table(("", ""), rows)


def show_list(counts: Counter[tuple[str, str]], rows: Sequence[dict[str, Any]]) -> None:
    if not counts:
        show("no dead letters")
        return
    show_table(("dead letters", "topic", "reason"), [(str(n), topic, reason) for (topic, reason), n in counts.most_common(MAX_REASONS)])
    if len(counts) > MAX_REASONS:
        show(f"and {len(counts) - MAX_REASONS} further reasons; --json has all")
    if rows:
        show("")
        show_table(("id", "set aside", "from", "group", "exception", "message", "bytes", "redriven"), [_row(row) for row in rows])


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    origin = "/".join(map(str, row["original"].values())) if row["original"] else "foreign"
    message = row["message"] if row["original"] else row["problem"]
    return (row["id"], row["set_aside_at"], origin, row["group"] or "", row["exception"], message, str(row["size_bytes"]), row["redriven_at"] or "")


def show_redriven(plan: RedrivePlan, names: KafkaNames, dry_run: bool, as_json: bool) -> None:
    foreign = [{"id": place(dead_letter.id, names), "problem": dead_letter.problem} for dead_letter in plan.foreign]
    dead_letters = [
        {
            "id": place(r.id, names),
            "to": f"{names.topic(r.origin.topic)}/{r.origin.partition}",
            "repeats": [place(id, names) for id in r.repeats],
            "notes": list(r.notes),
        }
        for r in plan.redrives
    ]
    if as_json:
        show_json(
            {"dry_run": dry_run, "redriven": 0 if dry_run else len(dead_letters), "letters": dead_letters, "already": plan.already_redriven, "foreign": foreign}
        )
        return
    show(f"{'would redrive' if dry_run else 'redrove'} {len(dead_letters)} records; redriven before {plan.already_redriven}; foreign, not sent {len(foreign)}")
    for topic, count in Counter(names.topic(redrive.origin.topic) for redrive in plan.redrives).items():
        show(f"  {topic}: {count}")
    for note, count in Counter(note for redrive in plan.redrives for note in redrive.notes).items():
        show(f"note for {count}: {note}")
