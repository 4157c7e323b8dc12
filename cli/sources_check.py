"""Work of `retouch sources check`: compiles the file, and maps sample records as the sources worker does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import BadSetting
from infra.kafka.sources_file import BadSources, SourceFormat, SourceSpec
from infra.process.command_output import FAILED, OK, USAGE, printable, show, show_error, show_json
from schemas.records import ConsumedRecord
from workers.sources.decoding import Decoder
from workers.sources.handler import SourceHandler
from workers.sources.mapping import SourceMapping, Unmappable
from workers.sources.service import check_registry, decoding, load_mappings

if TYPE_CHECKING:
    from infra.settings import Settings

#: How long the newest records of a topic may take.
READ_WITHIN_S = 30.0


@dataclass(frozen=True)
class _Sample:
    place: str  # such as `line 3`
    record: ConsumedRecord


def check(settings: Settings, file: Path | None, sample: Path | None, topic: str | None, newest: int, as_json: bool) -> int:
    """Returns the exit code. Raises BadSetting without a file, and RetryLater."""
    if file is not None:
        settings = settings.changed(sources={"file": file.absolute()})
    try:
        mappings = load_mappings(settings)
    except BadSources as error:
        _show_problems(error, as_json)
        return USAGE
    if sample is None and topic is None:
        _show_sources(mappings, as_json)
        return OK
    chosen = _topic(mappings, topic)
    of_topic = [mapping for mapping in mappings if mapping.spec.topic == chosen]
    if sample is not None:  # its values are decoded already
        results = asyncio.run(_mapped(SourceHandler(of_topic, Decoder(), SourceFormat.JSON), _lines(sample, chosen)))
    else:
        check_registry(settings, mappings)
        results = asyncio.run(_mapped_by_registry(settings, of_topic, _newest(settings, chosen, newest)))
    _show_results(chosen, results, as_json)
    return FAILED if any("reason" in result for result in results) else OK


def _topic(mappings: Sequence[SourceMapping], topic: str | None) -> str:
    topics = list(dict.fromkeys(mapping.spec.topic for mapping in mappings))
    if topic is None and len(topics) == 1:
        return topics[0]
    if topic not in topics:
        problem = "the file reads several topics" if topic is None else f"--topic {topic}: no source reads it"
        raise BadSetting(f"{problem}; name one of {', '.join(topics)} with --topic")
    return topic


def _lines(path: Path, topic: str) -> Iterator[_Sample]:
    """Each has the present time as its timestamp, and neither key nor headers. Raises BadSetting for a file that cannot be read."""
    from traffic.datasets.files import DataFile

    now_ms = int(time.time() * 1000)
    for number, line in DataFile(path).byte_lines():
        if line:
            yield _Sample(f"line {number}", ConsumedRecord(topic, 0, number - 1, now_ms, None, line, ()))


def _newest(settings: Settings, topic: str, count: int) -> list[_Sample]:
    """The topic's newest records by their timestamps, oldest first. Raises BadSetting without the topic, and RetryLater."""
    from infra.kafka.topic_reader import TopicReader
    from infra.local import running_settings

    running = running_settings(settings)
    with TopicReader(running, "retouch-sources-check") as reader:
        ranges = {partition: (max(start, end - count), end) for partition, (start, end) in reader.ranges(topic).items()}
        if not ranges:
            raise BadSetting(f"--topic {topic}: the broker at {running.bootstrap_servers()} has no such topic, or does not show it to this user")
        records = [ConsumedRecord(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.headers) for r in reader.read(ranges, timeout_s=READ_WITHIN_S)]
    records.sort(key=lambda record: record.timestamp_ms)
    return [_Sample(f"{r.topic}/{r.partition}/{r.offset}", r) for r in records[-count:]]


async def _mapped_by_registry(settings: Settings, mappings: Sequence[SourceMapping], samples: Iterable[_Sample]) -> list[dict[str, Any]]:
    async with decoding(settings) as decoder:
        return await _mapped(SourceHandler(mappings, decoder), samples)


async def _mapped(handler: SourceHandler, samples: Iterable[_Sample]) -> list[dict[str, Any]]:
    """For each record its messages, or why it has none. Raises RetryLater if a schema cannot be read."""
    results: list[dict[str, Any]] = []
    for sample in samples:
        try:
            messages = await handler.map(sample.record)
        except Unmappable as error:
            results.append({"record": sample.place, "source": error.source, "field": error.field, "expression": error.expression, "reason": error.reason})
        else:
            shown = [{"source": m.source, "topic": m.topic.name, "data": m.message.model_dump(mode="json", exclude_none=True)} for m in messages]
            results.append({"record": sample.place, "messages": shown})
    return results


def _show_problems(error: BadSources, as_json: bool) -> None:
    if as_json:
        show_json({"ok": False, "problems": list(error.problems)})
        return
    for problem in error.problems:
        show_error(f"{error.path}: {problem}")


def _show_sources(mappings: Sequence[SourceMapping], as_json: bool) -> None:
    specs: list[SourceSpec] = [mapping.spec for mapping in mappings]
    if as_json:
        show_json({"ok": True, "sources": [{"name": s.name, "topic": s.topic, "format": s.format, "message": s.message} for s in specs]})
    else:
        show("\n".join(f"{s.name}: {s.topic} ({s.format}) to {s.message}" for s in specs))


def _show_results(topic: str, results: Sequence[dict[str, Any]], as_json: bool) -> None:
    failed = [result for result in results if "reason" in result]
    skipped = sum(not result["messages"] for result in results if "messages" in result)
    counts = {"records": len(results), "mapped": len(results) - len(failed) - skipped, "skipped": skipped, "failed": len(failed)}
    if as_json:
        show_json({"topic": topic, **counts, "results": list(results)})
        return
    for result in results:
        show(printable(_line(result)))
    show(f"{topic}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def _line(result: dict[str, Any]) -> str:
    if "reason" in result:
        where = f"source {result['source']}" + (f", {result['field']} = {result['expression']}" if result["field"] else "")
        return f"{result['record']}: does not map: {where}: {result['reason']}"
    if not result["messages"]:
        return f"{result['record']}: skipped"
    return "\n".join(f"{result['record']}: {each['topic']} {json.dumps(each['data'], ensure_ascii=False)}" for each in result["messages"])
