"""`retouch up`, `status`, `down`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from infra.process.command_output import EXIT_CODES, FAILED, OK, Json, printable, run_command, show, show_error, show_json, show_table

if TYPE_CHECKING:
    from infra.local.stack_record import StackRecord
    from infra.settings import Settings

stack = typer.Typer()


@stack.command(epilog=EXIT_CODES.replace("1 failed", "1 not started, or started and not every process serves"))
def up(
    trainer: Annotated[bool, typer.Option(help="Run the trainer's service too.")] = True,
    as_json: Json = False,
) -> None:
    """Start the local stack and keep it running. Returns when every process serves.

    A process that keeps failing does not stop the others: `up` then names it, leaves them running and exits with 1. A refused setting stops everything.
    """
    run_command(lambda settings: _up(settings, trainer, as_json))


@stack.command(epilog=EXIT_CODES.replace("1 failed", "1 not running, or not every process serves"))
def status(as_json: Json = False) -> None:
    """Show the local stack's processes and addresses, and which process is down and why."""
    run_command(lambda settings: _status(settings, as_json))


@stack.command(epilog=EXIT_CODES)
def down(as_json: Json = False) -> None:
    """Stop the local stack, if one runs. Its data stays."""
    run_command(lambda settings: _down(settings, as_json))


def _up(settings: Settings, trainer: bool, as_json: bool) -> int:
    from infra.local import daemon

    code = _show(daemon.up(settings, trainer=trainer), settings, as_json)
    if code != OK:
        show_error("not every process serves; the others run on, and the failing ones are started again: see `retouch status`; `retouch down` stops all")
    return code


def _status(settings: Settings, as_json: bool) -> int:
    from infra.local import daemon

    record = daemon.status(settings)
    if record is None:
        show_json({"state": "down"}) if as_json else show(f"no stack runs in {settings.stack.dir}: `retouch up` starts one")
        return FAILED
    code = _show(record, settings, as_json)
    if record.failure:
        show_error(record.failure)
    return code


def _down(settings: Settings, as_json: bool) -> None:
    from infra.local import daemon

    was_running = daemon.down(settings)
    text = "stopped" if was_running else f"no stack runs in {settings.stack.dir}"
    show_json({"was_running": was_running}) if as_json else show(text)


def _show(record: StackRecord, settings: Settings, as_json: bool) -> int:
    """Print the record. Returns the exit code: whether every process serves."""
    from infra.local.stack_record import StackState

    if as_json:
        show_json(record.model_dump(mode="json"))
    else:
        rows = [(p.name, p.state.value, str(p.pid or ""), str(p.restarts)) for p in record.processes]
        show_table(("process", "state", "pid", "restarts"), rows)
        for problem in record.problems(datetime.now(UTC)):
            show(printable(problem))
        show(f"{record.state.value}, supervisor {record.pid}, broker {record.bootstrap_servers}, base model {record.base_url}")
        show(f"logs: {settings.stack.dir / 'logs'}")
        if record.promoter_url:
            show(f"promotion page: {record.promoter_url}")
    return OK if record.state is StackState.READY and record.is_serving else FAILED
