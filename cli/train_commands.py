"""`retouch train` runs the trainer as a separate process, as deployed. `retouch train status` shows the progress of the newest run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.process.command_output import EXIT_CODES, FAILED, OK, Json, run_command, show_error, show_json, show_table

if TYPE_CHECKING:
    from infra.settings import Settings

train = typer.Typer(invoke_without_command=True)


@train.callback(epilog=EXIT_CODES)
def begin(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="One run, then exit. Default: the service, until interrupted.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print as JSON what would be trained on, and why; train nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="No effect: log lines and the dry run are JSON anyway.")] = False,
) -> None:
    """Run the trainer on the running stack's topics."""
    if once and dry_run:
        raise typer.BadParameter("--once and --dry-run exclude each other")
    if context.invoked_subcommand is None:
        run_command(lambda settings: _train(settings, once, dry_run))
    if once or dry_run:
        raise typer.BadParameter(f"--once and --dry-run do not go with {context.invoked_subcommand}")


@train.command(epilog=EXIT_CODES.replace("1 failed", "1 there was no run yet, or failed"))
def status(as_json: Json = False) -> None:
    """Show the progress or the end of the newest run, from its report in the state directory."""
    run_command(lambda settings: _status(settings, as_json))


def _train(settings: Settings, once: bool, dry_run: bool) -> int:
    """Blocks until the trainer ends. A terminal sends its interrupts to the trainer too."""
    import subprocess
    import sys

    from infra.local import running_settings
    from infra.process.environment import environment

    flags = [flag for flag, is_set in (("--once", once), ("--dry-run", dry_run)) if is_set]
    trainer = subprocess.Popen([sys.executable, "-m", "trainer", *flags], env=environment(running_settings(settings)))
    try:
        return FAILED if (code := trainer.wait()) < 0 else code
    except BaseException:
        trainer.terminate()
        trainer.wait()
        raise


def _status(settings: Settings, as_json: bool) -> int:
    from trainer.run.report import status

    summary = status(settings)
    if summary is None:
        show_error(f"no run yet in {settings.stack.dir}: `retouch train --once` makes one")
        return FAILED
    if as_json:
        show_json(summary.model_dump(mode="json"))
        return OK
    show_table(("", ""), [(name, text) for name, value in summary.model_dump(mode="json").items() if (text := _text(name, value))])
    return OK


def _text(name: str, value: Any) -> str:
    if name == "seconds":
        return ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
