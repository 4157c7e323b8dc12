"""`retouch config check|print`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from infra.process.command_output import EXIT_CODES, Json, run_command, show, show_json, show_table

if TYPE_CHECKING:
    from infra.settings import Settings

config = typer.Typer(help="Settings and their sources.", no_args_is_help=True)


@config.command("check", epilog=EXIT_CODES)
def check_config(as_json: Json = False) -> None:
    """Check every setting; an impossible one is named with what would be right."""
    run_command(lambda settings: _check(settings, as_json))


@config.command("print", epilog=EXIT_CODES)
def print_config(as_json: Json = False) -> None:
    """Show every setting, its value and its source. Secrets are hidden."""
    run_command(lambda settings: _print(settings, as_json))


def _check(settings: Settings, as_json: bool) -> None:
    """Settings that reach a command are valid: `run_command` refuses all others."""
    from infra.settings.sources import sources

    changed = sum(setting.source != "default" for setting in sources(settings))
    show_json({"ok": True, "changed": changed}) if as_json else show(f"ok: {changed} settings differ from their defaults or are set explicitly")


def _print(settings: Settings, as_json: bool) -> None:
    from infra.settings.sources import sources

    if as_json:
        show_json({s.key: {"value": s.value, "source": s.source} for s in sources(settings)})
    else:
        show_table(("setting", "value", "source"), [(s.key, "" if s.value is None else str(s.value), s.source) for s in sources(settings)])
