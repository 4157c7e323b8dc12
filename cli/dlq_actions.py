"""Work of `retouch dlq`: checks the options, then connects to the broker and reads dead letters or sends them back."""

from __future__ import annotations

import heapq
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cli.dlq_output import detail, place, show_detail, show_list, show_redriven, summary
from infra.errors import BadSetting, CannotContinue
from infra.kafka.dead_letters import DeadLetterFilter, RecordId, StoredDeadLetter, last_redrive, plan_redrive, redrive_all
from infra.kafka.names import KafkaNames
from infra.process.command_output import show_error, show_json
from schemas import times
from schemas.topics import DEAD_LETTER_SUFFIX, dead_letter_topic

if TYPE_CHECKING:
    from infra.kafka.dead_letter_topics import DeadLetterReader, RedriveProducer
    from infra.kafka.dead_letters import RedrivePlan
    from infra.settings import Settings

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True)
class Selection:
    """The options that select dead letters, as they were typed."""

    topics: list[str] | None = None
    reason: str | None = None
    since: str | None = None
    until: str | None = None
    ids: tuple[str, ...] = ()
    everything: bool = False

    @property
    def has_filter(self) -> bool:
        return any(option is not None for option in (self.topics, self.reason, self.since, self.until))

    def filter(self) -> DeadLetterFilter:
        """Raises BadSetting for an impossible time."""
        since, until = (parse_time(name, text) for name, text in (("--since", self.since), ("--until", self.until)))
        if since is not None and until is not None and since >= until:
            raise BadSetting("--since must be before --until")
        return DeadLetterFilter(self.reason, since, until)

    def record_ids(self) -> list[RecordId]:
        """Raises BadSetting for a text that is no id."""
        try:
            return sorted({RecordId.parse(id) for id in self.ids})
        except ValueError as error:
            raise BadSetting(str(error)) from None


def parse_time(option: str, text: str | None) -> int | None:
    """Convert to Unix milliseconds. Raises BadSetting with what would be right."""
    if text is None:
        return None
    error = BadSetting(f"{option} {text!r}: must be ISO 8601 with a zone, such as 2026-11-20T12:00:00Z, or 10m, 2h, 3d ago")
    try:
        ago = _AGO.fullmatch(text)
        at = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])}) if ago else times.parse_time(text)
        return int(at.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise error from None


def list_dead_letters(settings: Settings, selection: Selection, limit: int, again: bool, as_json: bool) -> None:
    criteria, names = selection.filter(), KafkaNames.of(settings)
    with _connected(settings) as (reader, _):
        redrives = reader.redrive_records()
        counts: Counter[tuple[str, str]] = Counter()
        newest: list[tuple[int, RecordId, dict[str, Any]]] = []
        for dead_letter in reader.scan(_topic_names(reader, names, selection.topics, with_sources=True), criteria.since_ms):
            if criteria.matches(dead_letter) and (again or not last_redrive(dead_letter, redrives)):
                counts[names.topic(dead_letter.id.topic), dead_letter.reason] += 1
                heapq.heappush(newest, (dead_letter.set_aside_ms, dead_letter.id, summary(dead_letter, redrives, names)))
                if len(newest) > limit:
                    heapq.heappop(newest)
    rows = [row for _, _, row in sorted(newest, key=lambda entry: entry[:2], reverse=True)]
    if as_json:
        grouped = [{"topic": topic, "reason": reason, "letters": count} for (topic, reason), count in counts.most_common()]
        show_json({"total": counts.total(), "counts": grouped, "letters": rows})
    else:
        show_list(counts, rows)


def show_dead_letter(settings: Settings, id: str, as_json: bool) -> None:
    (record_id,) = Selection(ids=(id,)).record_ids()
    names = KafkaNames.of(settings)
    with _connected(settings) as (reader, _):
        (dead_letter,) = _fetch(reader, names, [record_id]).values()
        content = detail(dead_letter, reader.redrive_records(), names)
    show_json(content) if as_json else show_detail(content)


def redrive(settings: Settings, selection: Selection, limit: int | None, again: bool, dry_run: bool, as_json: bool) -> None:
    if selection.ids and (selection.has_filter or selection.everything):
        raise BadSetting("ids and --topic, --reason, --since, --until, --all exclude each other: use ids, or the options that select dead letters")
    if not (selection.ids or selection.has_filter or selection.everything):
        raise BadSetting("no dead letters selected: name ids, --topic, --reason, --since or --until, or use --all")
    criteria, ids, names = selection.filter(), selection.record_ids(), KafkaNames.of(settings)
    with _connected(settings) as (reader, open_producer):
        # A platform's topic has other readers: its records are only sent back if it is named.
        topics = [] if ids else _topic_names(reader, names, selection.topics, with_sources=False)
        sender = None if dry_run else open_producer()  # fences another redrive, so the redrive records that are read next are complete
        redrives = reader.redrive_records()
        dead_letters = _fetch(reader, names, ids).values() if ids else filter(criteria.matches, reader.scan(topics, criteria.since_ms))
        plan = plan_redrive(dead_letters, redrives, again=again, limit=limit)
        if ids and plan.foreign:
            raise CannotContinue(f"{place(plan.foreign[0].id, names)} cannot be redriven: {plan.foreign[0].problem}; nothing was sent")
        _check_partitions(reader, names, plan)
        if sender is not None:
            _send(reader, sender, plan)
    show_redriven(plan, names, dry_run, as_json)


def _send(reader: DeadLetterReader, sender: RedriveProducer, plan: RedrivePlan) -> None:
    """Shows a progress bar on standard error, on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("redriving", total=len(plan.redrives))
        try:
            redrive_all(reader, sender, plan.redrives, lambda count: progress.advance(task, count))
        except BaseException:
            show_error(f"{progress.tasks[0].completed:.0f} of {len(plan.redrives)} records are certainly redriven; the same command sends the rest")
            raise


@contextmanager
def _connected(settings: Settings) -> Iterator[tuple[DeadLetterReader, Callable[[], RedriveProducer]]]:
    """A reader, and a function that opens a producer. Both are closed."""
    from contextlib import ExitStack, closing

    from infra.kafka.dead_letter_topics import DeadLetterReader, RedriveProducer, redrive_errors
    from infra.local import running_settings

    running = running_settings(settings)
    with ExitStack() as stack:
        stack.enter_context(redrive_errors(running))
        reader = stack.enter_context(closing(DeadLetterReader(running)))
        yield reader, lambda: stack.enter_context(closing(RedriveProducer(running)))


def _declared(typed: str, present: Sequence[str], names: KafkaNames) -> str:
    """The declared name of a topic that was typed as the broker names it, as commands print it, or as it is declared. `present` has declared names."""
    return declared if names.has_prefix(typed) and (declared := names.declared(typed)) in present else typed


def _topic_names(reader: DeadLetterReader, names: KafkaNames, topics: Sequence[str] | None, *, with_sources: bool) -> list[str]:
    """The selected dead-letter topics; by default the declared ones, `with_sources` also those of `sources.toml`. Raises BadSetting for an unknown one."""
    present = reader.names()
    if topics is None:
        return reader.declared(with_sources=with_sources)
    selected = [_declared(name if name.endswith(DEAD_LETTER_SUFFIX) else dead_letter_topic(name), present, names) for name in topics]
    for name in selected:
        if name not in present:
            raise BadSetting(f"--topic {name.removesuffix(DEAD_LETTER_SUFFIX)}: has no dead-letter topic here; there are {_listed(present, names)}")
    return list(dict.fromkeys(selected))


def _fetch(reader: DeadLetterReader, names: KafkaNames, ids: Sequence[RecordId]) -> dict[RecordId, StoredDeadLetter]:
    """By declared id. `ids` have topics as they were typed."""
    present = reader.names()
    declared = [replace(id, topic=_declared(id.topic, present, names)) for id in ids]
    for id in declared:
        if id.topic not in present:
            raise BadSetting(f"{id}: there is no dead-letter topic {id.topic}; there are {_listed(present, names)}")
    dead_letters = reader.fetch(declared)
    missing = [place(id, names) for id in declared if id not in dead_letters]
    if missing:
        raise CannotContinue(f"no such dead letter: {', '.join(missing)}; `retouch dlq list` shows those that exist")
    return dead_letters


def _listed(present: Sequence[str], names: KafkaNames) -> str:
    return ", ".join(map(names.topic, present)) or "none"


def _check_partitions(reader: DeadLetterReader, names: KafkaNames, plan: RedrivePlan) -> None:
    for redrive in plan.redrives:
        origin, count = redrive.origin, reader.partitions(redrive.origin.topic)
        if origin.partition >= count:
            problem = f"has {count} partitions" if count else "does not exist"
            came = f"{place(redrive.id, names)} came from partition {origin.partition} of {names.topic(origin.topic)}"
            raise CannotContinue(f"{came}, which {problem}; nothing was sent")
