"""`retouch dlq list|show|redrive`: the options. What they do is in `cli.dlq_actions`, imported when a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.process.command_output import EXIT_CODES, Json, run

dlq = typer.Typer(help="Dead letters: records that were set aside.", no_args_is_help=True)

Topics = Annotated[list[str] | None, typer.Option("--topic", metavar="TOPIC", help="Of this topic, such as queries; repeat it. Otherwise: every declared one.")]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Whose exception's class or message contains this.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Set aside at TIME or later: ISO 8601 with zone, or 10m, 2h, 3d ago.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Set aside before TIME.")]
Again = Annotated[bool, typer.Option("--again", help="Take letters that were redriven before, too.")]


@dlq.command("list", epilog=EXIT_CODES)
def list_letters(
    topic: Topics = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=0, help="Show this many, the newest; all are counted.")] = 20,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Count the dead letters by topic and reason, and show the newest, without any user's words."""
    from cli import dlq_actions

    run(lambda settings: dlq_actions.list_letters(settings, dlq_actions.Wanted(topic, reason, since, until), limit, again, as_json))


@dlq.command("show", epilog=EXIT_CODES.replace("1 failed", "1 no such letter or failed"))
def show_letter(
    id: Annotated[str, typer.Argument(metavar="ID", help="TOPIC-dlt/PARTITION/OFFSET, as `list` prints it.")],
    as_json: Json = False,
) -> None:
    """Show one letter whole: the user's words too, as text where they are UTF-8, else as base64."""
    from cli import dlq_actions

    run(lambda settings: dlq_actions.show_letter(settings, id, as_json))


@dlq.command("redrive", epilog=EXIT_CODES.replace("1 failed", "1 no such letter, not one of ours, or failed"))
def redrive(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="These letters; otherwise those that the options choose.")] = None,
    topic: Topics = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many records, the first of each partition first.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every letter of every declared topic.")] = False,
    again: Again = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Send letters back to where they came from, byte for byte. Interrupted, the same command goes on with the rest."""
    from cli import dlq_actions

    wanted = dlq_actions.Wanted(topic, reason, since, until, tuple(ids or ()), everything)
    run(lambda settings: dlq_actions.redrive(settings, wanted, limit, again, dry_run, as_json))
