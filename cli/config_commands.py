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
    """Check every setting, and the file of the sources; what is impossible is named with what would be right."""
    run_command(lambda settings: _check(settings, as_json))


@config.command("print", epilog=EXIT_CODES)
def print_config(as_json: Json = False) -> None:
    """Show every setting, its value and its source. Secrets are hidden."""
    run_command(lambda settings: _print(settings, as_json))


def _check(settings: Settings, as_json: bool) -> None:
    """Settings that reach a command are valid: `run_command` refuses all others. Raises BadSetting for a `sources.file` that cannot be used."""
    from infra.settings.sources import sources

    if settings.sources.file is not None:
        from infra.kafka.sources_file import read_sources
        from workers.sources.mapping import compile_sources

        compile_sources(read_sources(settings.sources.file, settings.kafka.topic_prefix))
    changed = sum(setting.source != "default" for setting in sources(settings))
    show_json({"ok": True, "changed": changed}) if as_json else show(f"ok: {changed} settings differ from their defaults or are set explicitly")


def _print(settings: Settings, as_json: bool) -> None:
    from infra.settings.sources import sources

    if as_json:
        show_json({s.key: {"value": s.value, "source": s.source} for s in sources(settings)})
    else:
        show_table(("setting", "value", "source"), [(s.key, "" if s.value is None else str(s.value), s.source) for s in sources(settings)])
