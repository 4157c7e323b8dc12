"""`retouch models watch`: the page in a terminal."""

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
from infra.process.command_output import OK, printable, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from infra.settings import Settings
    from schemas.promotion_view import PromotionView

EVERY_S = 1.0


def watch(settings: Settings, follow: bool | None, as_json: bool) -> int:
    """Blocks until interrupted where it follows. A first look that fails is an error; later ones are waited out."""
    follow = sys.stdout.isatty() if follow is None else follow
    looks = _looks(settings) if follow else iter([(find_promoter(settings).view(), None)])
    try:
        _show_lines(looks) if as_json else _show_tables(looks, follow)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # whoever read has gone; nothing more may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def _looks(settings: Settings) -> Iterator[tuple[PromotionView, str | None]]:
    """The newest view every second, and why it is not of now where that is so."""
    at = find_promoter(settings)
    view, trouble = at.view(), None
    while True:
        yield view, trouble
        time.sleep(EVERY_S)
        try:
            # A promoter that started anew has another address.
            at = find_promoter(settings) if trouble else at
            view, trouble = at.view(), None
        except RetryLater as error:
            trouble = str(error)


def _show_lines(looks: Iterator[tuple[PromotionView, str | None]]) -> None:
    for view, trouble in looks:
        if trouble is None:
            show(json.dumps(json.loads(view.model_dump_json()), ensure_ascii=False))
            sys.stdout.flush()


def _show_tables(looks: Iterator[tuple[PromotionView, str | None]], follow: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(width=None if sys.stdout.isatty() else 200)
    if not follow:
        console.print(_drawn(*next(looks)))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        for view, trouble in looks:
            live.update(_drawn(view, trouble), refresh=True)


def _drawn(view: PromotionView, trouble: str | None) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [
        Text(f"{printable(view.name)}, {view.at:%Y-%m-%dT%H:%M:%S}Z", style="dim"),
        Text(printable(models_tables.headline(view)), style="bold"),
    ]
    if trouble:
        parts.append(Text(f"not of now: {printable(trouble)}", style="red"))
    for found in models_tables.everything(view):
        table = Table(title=found.title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
        for column in found.columns:
            table.add_column(column, overflow="fold")
        for row in found.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        parts += [Text(""), table]
    return Group(*parts)
