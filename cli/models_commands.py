"""`retouch models ...`: the options. `cli.models_actions` and `cli.models_watch` do the work."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.registered_model import RegisteredModel
from infra.process.command_output import EXIT_CODES, Json, run_command

models = typer.Typer(help="Versions of the registered models: their quality, and which of them serves.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(metavar="N", min=1, help="A version's number, as `list` shows it.")]
Version = Annotated[int, typer.Option("--version", metavar="N", min=1, help="The version's number.")]
Reason = Annotated[str, typer.Option(help="Reason, kept in the version history.")]
Operator = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the operator. Default: the login name.")]
Model = Annotated[RegisteredModel, typer.Option("--model", help="The registered model.")]
REFUSED = EXIT_CODES.replace("1 failed", "1 refused or failed")
UNKNOWN = EXIT_CODES.replace("1 failed", "1 no such version or failed")


@models.command("list", epilog=EXIT_CODES)
def list_versions(model: Model = RegisteredModel.REFLECTION, as_json: Json = False) -> None:
    """List the versions with their state, gate result and online reward."""
    from cli import models_actions

    run_command(lambda settings: models_actions.list_versions(settings, as_json, model))


@models.command(epilog=UNKNOWN)
def show(number: Number, model: Model = RegisteredModel.REFLECTION, as_json: Json = False) -> None:
    """Show one version in full."""
    from cli import models_actions

    run_command(lambda settings: models_actions.show_version(settings, str(number), as_json, model))


@models.command(epilog=UNKNOWN)
def history(
    number: Annotated[int | None, typer.Argument(metavar="[N]", min=1, help="The version's number. Default: all versions.")] = None,
    model: Model = RegisteredModel.REFLECTION,
    as_json: Json = False,
) -> None:
    """Show the transitions, with operator and reason, newest last. --json adds all evidence."""
    from cli import models_actions

    run_command(lambda settings: models_actions.history(settings, str(number) if number else None, as_json, model))


@models.command(epilog=REFUSED)
def promote(version: Version, reason: Reason = "", operator: Operator = None, model: Model = RegisteredModel.REFLECTION, as_json: Json = False) -> None:
    """Make a version champion now: one that is gated, in shadow or canary, waiting for approval, or a former champion."""
    from cli import models_actions

    run_command(lambda settings: models_actions.promote(settings, str(version), operator, reason, as_json, model))


@models.command(epilog=REFUSED)
def reject(version: Version, reason: Reason = "", operator: Operator = None, model: Model = RegisteredModel.REFLECTION, as_json: Json = False) -> None:
    """Reject a version; this is final. The champion cannot be rejected; use `rollback`."""
    from cli import models_actions

    run_command(lambda settings: models_actions.reject(settings, str(version), operator, reason, as_json, model))


@models.command(epilog=EXIT_CODES.replace("1 failed", "1 refused, failed, or no worker served the former champion in time"))
def rollback(
    version: Annotated[int | None, typer.Option("--version", metavar="N", min=1, help="Reject only this champion. Default: the present one.")] = None,
    to: Annotated[int | None, typer.Option("--to", metavar="N", min=1, help="The former champion to serve. Default: the last one.")] = None,
    reason: Reason = "",
    operator: Operator = None,
    model: Model = RegisteredModel.REFLECTION,
    wait: Annotated[bool, typer.Option(help="Wait until the workers serve the former champion, at most ten seconds.")] = True,
    as_json: Json = False,
) -> None:
    """Let a former champion serve again, and reject the present one; this is final."""
    from cli import models_actions

    rejected, restored = (str(number) if number else None for number in (version, to))
    run_command(lambda settings: models_actions.rollback(settings, rejected, restored, operator, reason, wait, as_json, model))


@models.command(epilog=UNKNOWN)
def diff(
    a: Annotated[int, typer.Argument(metavar="A", min=1, help="A version's number.")],
    b: Annotated[int, typer.Argument(metavar="B", min=1, help="Another version's number.")],
    samples: Annotated[int, typer.Option(min=0, max=100, help="Number of held-out questions whose two answers are shown.")] = 5,
    as_json: Json = False,
) -> None:
    """Compare two versions by domain and slice, with intervals. Prints users' questions and both answers."""
    from cli import models_actions

    run_command(lambda settings: models_actions.diff(settings, str(a), str(b), samples, as_json))


@models.command(epilog=EXIT_CODES.replace("130 interrupted", "0 interrupted while it follows"))
def watch(
    follow: Annotated[bool | None, typer.Option("--follow/--once", help="Refresh every second, or print once. Default: follow on a terminal.")] = None,
    as_json: Json = False,
) -> None:
    """Watch the promotion: versions, arms, rewards, guardrails, workers, transitions. --json prints one line for each refresh."""
    from cli import models_watch

    run_command(lambda settings: models_watch.watch(settings, follow, as_json))
