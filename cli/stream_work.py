"""`retouch demo`, `replay`, `ask`: what the other packages do, reached by name so that `infra` imports none of them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from infra.process.command_output import OK, USAGE, complain, show, show_json, show_table

if TYPE_CHECKING:
    from infra.settings import Settings
    from schemas.responses import Response


def demo(settings: Settings, out: Path, short: bool, seed: int, as_json: bool) -> int:
    code: int = importlib.import_module("bench.demo").run(settings, out=out, short=short, seed=seed, as_json=as_json)
    return code


def replay(settings: Settings, path: Path, format: str, limit: int | None, last: int | None, out: Path | None, as_json: bool) -> int:
    if not path.exists():
        complain(f"{path}: no such file or folder")
        return USAGE
    running = _running(settings)
    code: int = importlib.import_module("traffic.replay").run(running, path, format=format, limit=limit, last=last, out=out, as_json=as_json)
    return code


def ask(settings: Settings, user: str, text: str, domain: str, options: tuple[str, ...], strategy: str | None, timeout_s: float, as_json: bool) -> int:
    from pydantic import ValidationError

    from cli import query_client as asking
    from schemas.queries import Strategy

    try:
        query = asking.question(settings, user, text, domain, options, Strategy(strategy) if strategy else None)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        complain(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        return USAGE
    response = asking.ask(_running(settings), query, timeout_s)
    if as_json:
        show_json(asking.as_data(response))
    else:
        _show_response(response)
    return OK


def _running(settings: Settings) -> Settings:
    from infra.local import running_settings

    return running_settings(settings)


def _show_response(response: Response) -> None:
    made = response.provenance
    model = f"{made.model.name} version {made.model.version} ({made.model.digest[:12]})" if made.model else "none"
    show(response.answer)
    show_table(
        ("", ""),
        [
            ("status", response.status.value),
            ("base answer", response.context.draft.answer),
            ("reasoning", response.reasoning),
            ("reflection model", model),
            ("base model", made.base_model),
            ("strategy", f"{made.strategy.value}, k={made.k}"),
            ("history", ", ".join(map(str, made.history_ids)) or "none"),
            ("milliseconds", f"base {made.base_ms:.0f}, retrieve {made.retrieve_ms:.0f}, reflect {made.reflect_ms:.0f}"),
        ],
    )
