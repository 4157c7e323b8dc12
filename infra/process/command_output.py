"""Shared by all commands: load the settings, run, print output, turn errors into one line on standard error and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from infra.settings import Settings

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = "Exit codes: 0 ok, 1 failed, 2 usage or impossible setting, 130 interrupted."

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def run_command(body: Callable[[Settings], int | None]) -> NoReturn:
    """Load the settings, call `body` and exit with its code, or 0 for None. Expected errors become one line on standard error."""
    raise typer.Exit(exit_code_of(body))


def exit_code_of(body: Callable[[Settings], int | None]) -> int:
    # Imported here, because `--help` does not need the settings, which take a quarter of a second.
    from infra.errors import BadSetting, RetouchError
    from infra.process.model_check import check_models
    from infra.settings import load

    try:
        settings = load()
        check_models(settings)
        return body(settings) or OK
    except BadSetting as error:
        show_error(str(error))
        return USAGE
    except RetouchError as error:
        show_error(str(error))
        return FAILED
    except KeyboardInterrupt:
        show_error("interrupted")
        return INTERRUPTED


def show_error(line: str) -> None:
    print(f"retouch: {printable(line)}", file=sys.stderr)  # noqa: T201  # standard error of a command is for its user


def printable(text: str) -> str:
    """Escapes control characters, so that text from elsewhere cannot control the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def show(text: str) -> None:
    print(text)  # noqa: T201  # standard output of a command is for its user


def show_json(value: Any) -> None:
    import json

    show(json.dumps(value, indent=1, default=str, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As wide as the terminal, or 240 columns if the output is no terminal, so that it can be searched. Cells are made printable."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 240).print(table)
