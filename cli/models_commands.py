"""`retouch models ...`: the options. What they do is in `cli.models_actions` and `cli.models_watch`, imported when a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.process.command_output import EXIT_CODES, Json, run

models = typer.Typer(help="Versions of the reflection model: what they are worth, and which of them serves.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(metavar="N", min=1, help="A version's number, as `list` shows it.")]
Version = Annotated[int, typer.Option("--version", metavar="N", min=1, help="Which version.")]
Reason = Annotated[str, typer.Option(help="Why, for those who read the log later.")]
Operator = Annotated[str | None, typer.Option(metavar="NAME", help="Who decides. Default: the login name.")]
REFUSED = EXIT_CODES.replace("1 failed", "1 refused or failed")
UNKNOWN = EXIT_CODES.replace("1 failed", "1 no such version or failed")


@models.command("list", epilog=EXIT_CODES)
def list_versions(as_json: Json = False) -> None:
    """List the versions, where they stand, and what their answers are worth to users."""
    from cli import models_actions

    run(lambda settings: models_actions.list_versions(settings, as_json))


@models.command(epilog=UNKNOWN)
def show(number: Number, as_json: Json = False) -> None:
    """Show everything that is known of one version."""
    from cli import models_actions

    run(lambda settings: models_actions.show_version(settings, str(number), as_json))


@models.command(epilog=UNKNOWN)
def history(
    number: Annotated[int | None, typer.Argument(metavar="[N]", min=1, help="Of this version; otherwise of all.")] = None,
    as_json: Json = False,
) -> None:
    """Show what was decided, by whom and why, newest last. With --json all the evidence, too."""
    from cli import models_actions

    run(lambda settings: models_actions.history(settings, str(number) if number else None, as_json))


@models.command(epilog=REFUSED)
def promote(version: Version, reason: Reason = "", operator: Operator = None, as_json: Json = False) -> None:
    """Make a version champion now: one that is gated, being tried, waiting for approval, or was champion before."""
    from cli import models_actions

    run(lambda settings: models_actions.promote(settings, str(version), operator, reason, as_json))


@models.command(epilog=REFUSED)
def reject(version: Version, reason: Reason = "", operator: Operator = None, as_json: Json = False) -> None:
    """Give a version up for good. The champion is not rejected but rolled back."""
    from cli import models_actions

    run(lambda settings: models_actions.reject(settings, str(version), operator, reason, as_json))


@models.command(epilog=EXIT_CODES.replace("1 failed", "1 refused, failed, or no worker served the old version in time"))
def rollback(
    version: Annotated[int | None, typer.Option("--version", metavar="N", min=1, help="Give up this champion and no other. Default: the present one.")] = None,
    to: Annotated[int | None, typer.Option("--to", metavar="N", min=1, help="This former champion. Default: the last one.")] = None,
    reason: Reason = "",
    operator: Operator = None,
    wait: Annotated[bool, typer.Option(help="Until the workers serve the old version, at most ten seconds.")] = True,
    as_json: Json = False,
) -> None:
    """Let a former champion serve again, and give up the present one for good."""
    from cli import models_actions

    given_up, back = (str(number) if number else None for number in (version, to))
    run(lambda settings: models_actions.rollback(settings, given_up, back, operator, reason, wait, as_json))


@models.command(epilog=UNKNOWN)
def diff(
    one: Annotated[int, typer.Argument(metavar="A", min=1, help="A version's number.")],
    other: Annotated[int, typer.Argument(metavar="B", min=1, help="Another's.")],
    samples: Annotated[int, typer.Option(min=0, max=100, help="Show this many answers to the same held-out questions side by side.")] = 5,
    as_json: Json = False,
) -> None:
    """Compare two versions by domain and slice with intervals. Shows users' questions and both answers to whoever asks."""
    from cli import models_actions

    run(lambda settings: models_actions.diff(settings, str(one), str(other), samples, as_json))


@models.command(epilog=EXIT_CODES.replace("130 interrupted", "0 interrupted while it follows"))
def watch(
    follow: Annotated[bool | None, typer.Option("--follow/--once", help="Look every second until interrupted, or once. Default: follow on a terminal.")] = None,
    as_json: Json = False,
) -> None:
    """Watch the promotion: versions, arms, rewards, guardrails, workers, transitions. With --json a line for each look."""
    from cli import models_watch

    run(lambda settings: models_watch.watch(settings, follow, as_json))
