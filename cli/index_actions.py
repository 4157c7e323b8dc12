"""What `retouch index` does. Its options are in `cli.index_commands`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError

from infra.errors import BadSetting
from infra.process.command_output import show, show_json
from infra.settings.stream import IndexSettings

if TYPE_CHECKING:
    from infra.settings import Settings
    from streams.rebuild.rebuild import Report


def rebuild(settings: Settings, into: str | None, as_json: bool) -> None:
    from infra.local import running_settings
    from streams.embedding.factory import make_embedder
    from streams.rebuild.interactions_log import InteractionsLog

    _check(settings, "--into", into)
    with InteractionsLog(running_settings(settings)) as log, closing(make_embedder(settings.embedder)) as embedder, _progress() as notify:

        async def run() -> Report:
            from streams.index.server import open_client
            from streams.rebuild.rebuild import Rebuild

            client = open_client(settings.index)
            try:
                return await Rebuild(client, settings, embedder, log, into, notify).run()
            finally:
                await client.close()

        report = asyncio.run(run())
    show_json(report.as_data()) if as_json else show(_text(report))


def alias(settings: Settings, name: str, as_json: bool) -> None:
    _check(settings, "NAME", name)

    async def run() -> dict[str, str]:
        from streams.index.server import open_client
        from streams.rebuild.rebuild import make_aliases

        client = open_client(settings.index)
        try:
            return await make_aliases(client, settings, name)
        finally:
            await client.close()

    made = asyncio.run(run())
    if as_json:
        show_json({"aliases": made})
        return
    show("\n".join(f"{alias} leads to {collection}" for alias, collection in made.items()))
    show(f"restart the streams processes with index.collection={name}; no point is moved")


def _check(settings: Settings, option: str, name: str | None) -> None:
    if settings.index.url is None:
        raise BadSetting(
            "index.url: not set, so the index is inside the streams process, whose directory no other process can open. Stop the process, remove "
            f"{settings.index_dir}, and start it with the new settings: it fills the index from the topic"
        )
    if name == "":  # which settings take for unset
        raise BadSetting(f"{option} '': must be the name of a collection")
    if name is not None:
        try:
            IndexSettings(url=settings.index.url, collection=name)
        except ValidationError as error:
            raise BadSetting(f"{option} {name!r}: {error.errors()[0]['msg']}") from error


def _text(report: Report) -> str:
    lines = [
        f"{report.alias} leads to {report.collection}, which has every point of {report.former}",
        *([f"{report.points} points, digest {report.digest}"] if report.digest else ["it was switched before; nothing was done"]),
    ]
    if report.left_out:
        lines.append(f"left out, because {report.former} has them not: {', '.join(report.left_out)}")
    return "\n".join(lines)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """One line on a terminal."""
    from rich.console import Console
    from rich.status import Status

    with Status("reading the log", console=Console(stderr=True)) if sys.stderr.isatty() else _no_status() as status:
        yield lambda copied, left: status.update(f"{copied} points copied, {left} offsets left") if status else None


@contextmanager
def _no_status() -> Iterator[None]:
    yield None
