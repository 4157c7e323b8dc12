"""What `retouch dlq` does: options are checked before anything connects, then letters are read, or sent back."""

from __future__ import annotations

import heapq
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cli.dlq_output import detail, show_list, show_redriven, show_whole, summary
from infra.errors import BadSetting, CannotContinue
from infra.kafka.dead_letters import Filter, Letter, Place, deliver, mark_of, plan
from infra.process.command_output import OK, complain, show_json
from schemas.topics import DEAD_LETTER_SUFFIX, DEAD_LETTERED, dead_letter_topic

if TYPE_CHECKING:
    from infra.kafka.dead_letter_topics import DeadLetterTopics
    from infra.kafka.dead_letters import Plan
    from infra.settings import Settings

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True)
class Wanted:
    """The options as they were typed."""

    topics: list[str] | None = None
    reason: str | None = None
    since: str | None = None
    until: str | None = None
    ids: tuple[str, ...] = ()
    everything: bool = False

    @property
    def has_filter(self) -> bool:
        return any(option is not None for option in (self.topics, self.reason, self.since, self.until))

    def filter(self) -> Filter:
        """Raises BadSetting for an impossible time."""
        since, until = (parse_time(name, text) for name, text in (("--since", self.since), ("--until", self.until)))
        if since is not None and until is not None and since >= until:
            raise BadSetting("--since must be before --until")
        return Filter(self.reason, since, until)

    def places(self) -> list[Place]:
        """Raises BadSetting for what is no id."""
        try:
            return sorted({Place.parse(id) for id in self.ids})
        except ValueError as error:
            raise BadSetting(str(error)) from None


def parse_time(option: str, text: str | None) -> int | None:
    """Unix milliseconds. Raises BadSetting with what would be right."""
    if text is None:
        return None
    wrong = BadSetting(f"{option} {text!r}: must be ISO 8601 with a zone, such as 2026-11-20T12:00:00Z, or 10m, 2h, 3d ago")
    try:
        ago = _AGO.fullmatch(text)
        at = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])}) if ago else datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise wrong
        return int(at.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise wrong from None


def list_letters(settings: Settings, wanted: Wanted, limit: int, again: bool, as_json: bool) -> int:
    chosen = wanted.filter()
    with _opened(settings) as (topics, _):
        marks = topics.marks()
        counts: Counter[tuple[str, str]] = Counter()
        newest: list[tuple[int, Place, dict[str, Any]]] = []
        for letter in topics.scan(_names(topics, wanted.topics), chosen.since_ms):
            if chosen.takes(letter) and (again or not mark_of(letter, marks)):
                counts[letter.place.topic, letter.reason] += 1
                heapq.heappush(newest, (letter.set_aside_ms, letter.place, summary(letter, marks)))
                if len(newest) > limit:
                    heapq.heappop(newest)
    rows = [row for _, _, row in sorted(newest, key=lambda entry: entry[:2], reverse=True)]
    if as_json:
        grouped = [{"topic": topic, "reason": reason, "letters": count} for (topic, reason), count in counts.most_common()]
        show_json({"total": counts.total(), "counts": grouped, "letters": rows})
    else:
        show_list(counts, rows)
    return OK


def show_letter(settings: Settings, id: str, as_json: bool) -> int:
    place = Wanted(ids=(id,)).places()[0]
    with _opened(settings) as (topics, _):
        letter = _fetched(topics, [place])[place]
        found = detail(letter, topics.marks())
    if as_json:
        show_json(found)
        return OK
    show_whole(found)
    return OK


def redrive(settings: Settings, wanted: Wanted, limit: int | None, again: bool, dry_run: bool, as_json: bool) -> int:
    if wanted.ids and (wanted.has_filter or wanted.everything):
        raise BadSetting("ids and --topic, --reason, --since, --until, --all exclude each other: name the letters, or describe them")
    if not (wanted.ids or wanted.has_filter or wanted.everything):
        raise BadSetting("say which letters: their ids, --topic, --reason, --since or --until, or --all of them")
    chosen, places = wanted.filter(), wanted.places()
    with _opened(settings) as (topics, outbox):
        names = [] if places else _names(topics, wanted.topics)
        send = None if dry_run else outbox()  # before the marks are read: from here on no other redrive adds any
        marks = topics.marks()
        letters = _fetched(topics, places).values() if places else filter(chosen.takes, topics.scan(names, chosen.since_ms))
        planned = plan(letters, marks, again=again, limit=limit)
        if places and planned.foreign:
            raise CannotContinue(f"{planned.foreign[0].place} cannot be redriven: {planned.foreign[0].problem}; nothing was sent")
        _check_places(topics, planned)
        if send is not None:
            _deliver(topics, send, planned)
    show_redriven(planned, dry_run, as_json)
    return OK


def _deliver(topics: DeadLetterTopics, outbox: Any, planned: Plan) -> None:
    done = 0

    def sent(count: int) -> None:
        nonlocal done
        done += count
        advance(count)

    with _progress(len(planned.errands)) as advance:
        try:
            deliver(topics, outbox, planned.errands, sent)
        except BaseException:
            complain(f"{done} of {len(planned.errands)} records are known to be redriven; the same command goes on with the rest")
            raise


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[DeadLetterTopics, Callable[[], Any]]]:
    """The topics, and how to open the way back; both are closed."""
    from contextlib import ExitStack, closing

    from infra.kafka.dead_letter_topics import DeadLetterTopics, TransactionalOutbox, answering
    from infra.local import running_settings

    running = running_settings(settings)
    with ExitStack() as stack:
        stack.enter_context(answering(running))
        topics = stack.enter_context(closing(DeadLetterTopics(running)))
        yield topics, lambda: stack.enter_context(closing(TransactionalOutbox(running)))


def _names(topics: DeadLetterTopics, asked: Sequence[str] | None) -> list[str]:
    """The dead-letter topics that are meant. Raises BadSetting for one that is not there."""
    present = topics.names()
    if asked is None:
        return [name for topic in DEAD_LETTERED if (name := dead_letter_topic(topic.name)) in present]
    names = [name if name.endswith(DEAD_LETTER_SUFFIX) else dead_letter_topic(name) for name in asked]
    for name in names:
        if name not in present:
            raise BadSetting(f"--topic {name.removesuffix(DEAD_LETTER_SUFFIX)}: has no dead-letter topic here; there are {', '.join(present) or 'none'}")
    return list(dict.fromkeys(names))


def _fetched(topics: DeadLetterTopics, places: Sequence[Place]) -> dict[Place, Letter]:
    present = topics.names()
    for place in places:
        if place.topic not in present:
            raise BadSetting(f"{place}: there is no dead-letter topic {place.topic}; there are {', '.join(present) or 'none'}")
    found = topics.fetch(places)
    missing = [str(place) for place in places if place not in found]
    if missing:
        raise CannotContinue(f"no such dead letter: {', '.join(missing)}; `retouch dlq list` shows those that there are")
    return found


def _check_places(topics: DeadLetterTopics, planned: Plan) -> None:
    for errand in planned.errands:
        count = topics.partitions(errand.origin.topic)
        if errand.origin.partition >= count:
            there = f"has {count} partitions" if count else "does not exist"
            raise CannotContinue(f"{errand.place} came from partition {errand.origin.partition} of {errand.origin.topic}, which {there}; nothing was sent")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("redriving", total=total)
        yield lambda count: bar.advance(task, count)
