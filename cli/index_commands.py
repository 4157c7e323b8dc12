"""`retouch index rebuild|alias`: the options. `cli.index_actions` does the work."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.process.command_output import EXIT_CODES, Json, run_command

index = typer.Typer(help="The history index on a Qdrant server.", no_args_is_help=True)


@index.command("rebuild", epilog=EXIT_CODES.replace("1 failed", "1 the alias is not switched, or failed"))
def rebuild(
    into: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the new collection. Default: the alias, and a digest of embedder and layout.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fill a new collection from the log, with the embedder and the layout of the settings; prove that it equals the serving one; switch the alias.

    After an interrupt, the same command continues.
    """
    from cli import index_actions

    run_command(lambda settings: index_actions.rebuild(settings, into, as_json))


@index.command("alias", epilog=EXIT_CODES)
def alias(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name, for index.collection.")],
    as_json: Json = False,
) -> None:
    """Make the alias NAME, and NAME-profiles, for the collections that serve: only an alias can be switched to a rebuilt collection."""
    from cli import index_actions

    run_command(lambda settings: index_actions.alias(settings, name, as_json))
