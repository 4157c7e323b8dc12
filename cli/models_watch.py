"""`retouch models watch`: the promotion view in a terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cli import models_tables
from cli.models_actions import find_promoter
from infra.errors import RetryLater
from infra.process.command_output import printable, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from infra.settings import Settings
    from schemas.promotion_view import PromotionView

EVERY_S = 1.0


def watch(settings: Settings, follow: bool | None, as_json: bool) -> None:
    """Blocks until interrupted if `follow` is set. Raises RetryLater if the first view fails; later failures are shown, and retried."""
    follow = sys.stdout.isatty() if follow is None else follow
    views = _views(settings) if follow else iter([(find_promoter(settings).view(), None)])
    try:
        _show_lines(views) if as_json else _show_tables(views, follow)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # the reader of the output has gone; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _views(settings: Settings) -> Iterator[tuple[PromotionView, str | None]]:
    """Every second the newest view, with the error if it could not be renewed."""
    promoter = find_promoter(settings)
    view, error_text = promoter.view(), None
    while True:
        yield view, error_text
        time.sleep(EVERY_S)
        try:
            # A restarted promoter has another address.
            promoter = find_promoter(settings) if error_text else promoter
            view, error_text = promoter.view(), None
        except RetryLater as error:
            error_text = str(error)


def _show_lines(views: Iterator[tuple[PromotionView, str | None]]) -> None:
    for view, error_text in views:
        if error_text is None:
            show(json.dumps(json.loads(view.model_dump_json()), ensure_ascii=False))
            sys.stdout.flush()


def _show_tables(views: Iterator[tuple[PromotionView, str | None]], follow: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(width=None if sys.stdout.isatty() else 200)
    if not follow:
        console.print(_rendered(*next(views)))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        for view, error_text in views:
            live.update(_rendered(view, error_text), refresh=True)


def _rendered(view: PromotionView, error_text: str | None) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [
        Text(f"{printable(view.name)}, {view.at:%Y-%m-%dT%H:%M:%S}Z", style="dim"),
        Text(printable(models_tables.headline(view)), style="bold"),
    ]
    if error_text:
        parts.append(Text(f"not up to date: {printable(error_text)}", style="red"))
    for content in models_tables.all_tables(view):
        table = Table(title=content.title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
        for column in content.columns:
            table.add_column(column, overflow="fold")
        for row in content.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        parts += [Text(""), table]
    return Group(*parts)
