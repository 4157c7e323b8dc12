"""`retouch dlq list|show|redrive`: the options. `cli.dlq_actions` does the work."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.process.command_output import EXIT_CODES, Json, run_command

dlq = typer.Typer(help="Dead letters: records that were set aside.", no_args_is_help=True)

Topics = Annotated[
    list[str] | None,
    typer.Option("--topic", metavar="TOPIC", help="Only this topic, such as queries, with or without kafka.topic_prefix; repeat it. Default: all."),
]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Only dead letters whose exception class or message contains TEXT.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Set aside at TIME or later: ISO 8601 with zone, or 10m, 2h, 3d ago.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Set aside before TIME.")]
Again = Annotated[bool, typer.Option("--again", help="Include dead letters that were redriven before.")]


@dlq.command("list", epilog=EXIT_CODES)
def list_dead_letters(
    topic: Topics = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=0, help="Number of dead letters to show, the newest; all are counted.")] = 20,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Count the dead letters by topic and reason, and show the newest, without any user's text."""
    from cli import dlq_actions

    run_command(lambda settings: dlq_actions.list_dead_letters(settings, dlq_actions.Selection(topic, reason, since, until), limit, again, as_json))


@dlq.command("show", epilog=EXIT_CODES.replace("1 failed", "1 no such dead letter or failed"))
def show_dead_letter(
    id: Annotated[str, typer.Argument(metavar="ID", help="TOPIC-dlt/PARTITION/OFFSET, as `list` prints it.")],
    as_json: Json = False,
) -> None:
    """Show one dead letter with key and value, the user's text included: as text if it is UTF-8, else as base64."""
    from cli import dlq_actions

    run_command(lambda settings: dlq_actions.show_dead_letter(settings, id, as_json))


@dlq.command("redrive", epilog=EXIT_CODES.replace("1 failed", "1 no such dead letter, not written by Retouch, or failed"))
def redrive(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="These dead letters. Default: those that the options select.")] = None,
    topic: Topics = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of records, the first of each partition first.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter of every declared topic.")] = False,
    again: Again = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Send dead letters back to the topics they came from, byte for byte. After an interrupt, the same command sends the rest."""
    from cli import dlq_actions

    selection = dlq_actions.Selection(topic, reason, since, until, tuple(ids or ()), everything)
    run_command(lambda settings: dlq_actions.redrive(settings, selection, limit, again, dry_run, as_json))
