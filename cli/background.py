"""`retouch up`, `status`, `down`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.process.command_output import FAILED, OK, complain, show, show_json, show_table

if TYPE_CHECKING:
    from infra.local.record import StackRecord
    from infra.settings import Settings


def up(settings: Settings, trainer: bool, as_json: bool) -> int:
    from infra.local import daemon

    _show(daemon.up(settings, trainer=trainer), as_json)
    return OK


def status(settings: Settings, as_json: bool) -> int:
    from infra.local import daemon
    from infra.local.record import StackState

    record = daemon.status(settings)
    if record is None:
        if as_json:
            show_json({"state": "down"})
        else:
            show(f"no stack runs in {settings.stack.dir}: `retouch up` starts one")
        return FAILED
    _show(record, as_json)
    if record.failure:
        complain(record.failure)
    return OK if record.state is StackState.READY and record.is_serving else FAILED


def down(settings: Settings, as_json: bool) -> int:
    from infra.local import daemon

    was_running = daemon.down(settings)
    if as_json:
        show_json({"was_running": was_running})
    else:
        show("stopped" if was_running else f"no stack runs in {settings.stack.dir}")
    return OK


def _show(record: StackRecord, as_json: bool) -> None:
    if as_json:
        show_json(record.model_dump(mode="json"))
        return
    rows = [(p.name, p.state.value, str(p.pid or ""), str(p.restarts), str(p.log)) for p in record.processes]
    show_table(("process", "state", "pid", "restarts", "log"), rows)
    show(f"{record.state.value}, supervisor {record.pid}, broker {record.bootstrap_servers}, base model {record.base_url}")
    if record.promoter_url:
        show(f"promotion is watched at {record.promoter_url}")
