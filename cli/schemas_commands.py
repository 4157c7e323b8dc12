"""`retouch schemas export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.process.command_output import EXIT_CODES, run_command, show

schemas = typer.Typer(help="The contract with platforms: topics, headers, keys and messages.", no_args_is_help=True)


@schemas.callback()
def _() -> None:
    """Keeps `export` a command of its own while it is the only one."""


@schemas.command("export", epilog=EXIT_CODES)
def export(
    out: Annotated[Path | None, typer.Option(help="Folder for asyncapi.json and JSON Schemas. Default: prints asyncapi.json.")] = None,
) -> None:
    """Write the contract as an AsyncAPI 3 document and JSON Schemas."""
    run_command(lambda _: _export(out))


def _export(out: Path | None) -> None:
    from importlib.metadata import version

    from infra.process import output_files
    from schemas.asyncapi import files

    contents = files(version("retouch"))
    if out is None:
        show(contents["asyncapi.json"].rstrip("\n"))
        return
    for name in contents:
        output_files.check_writable(out / name)
    for name, content in contents.items():
        output_files.write(out / name, content)
    show(f"{len(contents)} files in {out}")
