"""`retouch config check|print`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.process.command_output import OK, show, show_json, show_table

if TYPE_CHECKING:
    from infra.settings import Settings


def check(settings: Settings, as_json: bool) -> int:
    """Settings that load are possible: `load` has refused all others."""
    from infra.setting_sources import sources

    changed = sum(setting.source != "default" for setting in sources(settings))
    if as_json:
        show_json({"ok": True, "changed": changed})
    else:
        show(f"ok: {changed} settings differ from their defaults or are set explicitly")
    return OK


def show_all(settings: Settings, as_json: bool) -> int:
    from infra.setting_sources import sources

    found = sources(settings)
    if as_json:
        show_json({setting.key: {"value": setting.value, "source": setting.source} for setting in found})
    else:
        show_table(("setting", "value", "source"), [(s.key, "" if s.value is None else str(s.value), s.source) for s in found])
    return OK
