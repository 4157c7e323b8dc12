"""`retouch domains ...`: the options. `cli.domains_actions` does the work."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.process.command_output import EXIT_CODES, Json, run_command

domains = typer.Typer(help="Domain entries: how models are asked, and how their answers are scored.", no_args_is_help=True)


@domains.command("list", epilog=EXIT_CODES)
def list_domains(as_json: Json = False) -> None:
    """List the domains with an entry, built-in or of the settings: their options, metric, reward, k and tokens."""
    from cli import domains_actions

    run_command(lambda settings: domains_actions.list_domains(settings, as_json))


@domains.command(epilog=EXIT_CODES)
def show(
    name: Annotated[str, typer.Argument(help="The domain. Without an entry, the options decide how it is handled.")],
    text: Annotated[str, typer.Option(help="The query's text.")],
    option: Annotated[list[str] | None, typer.Option(help="An allowed answer; repeat it. Default: those of the domain's entry.")] = None,
    item: Annotated[list[str] | None, typer.Option(help="A past item, `content => response`; repeat it, best first. Default: made-up items.")] = None,
    draft: Annotated[str, typer.Option(help="The base answer that the reflection model gets.")] = "(the base answer)",
    as_json: Json = False,
) -> None:
    """Print what every model is asked for a query of this domain, with the number of tokens.

    RPM's prompts are left out: they consist of the user's factors.
    """
    from cli import domains_actions

    asked = domains_actions.Asked(name, text, tuple(option or ()), tuple(item or ()), draft)
    run_command(lambda settings: domains_actions.show_domain(settings, asked, as_json))
