"""`retouch lab chaos`: settings of the run's own, the run, the verdict, the report."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra import outputs
from infra.errors import CannotContinue
from infra.lifecycle import FAILED, OK
from infra.settings import Settings
from infra.stack.lock import holder
from infra.stack.record import lock_path
from lab.chaos import picture
from lab.chaos.checker import check
from lab.chaos.plan import draw
from lab.chaos.report import compile_report, lines
from lab.chaos.run import BOUND_S, Options, perform

#: Written into a state directory when it is made: one without it may be anybody's, and is never removed.
MARKER = ".retouch-state"
REPORT, PICTURE = "report.json", "chaos.png"


def run(settings: Settings, *, minutes: float, seed: int, out: Path | None = None, ordered: bool = False, as_json: bool = False) -> int:
    """Blocks for the minutes of load, the start of the stack and its healing. Call it from the main thread.

    The run has a broker, a base model and a state directory of its own, whatever the settings name: below `out`, kept, or a temporary one.
    Exit codes: 0 no anomaly; 1 anomalies, or the system did not survive. Raises CannotContinue when the stack does not come up.
    """
    with _workplace(out) as place:
        report = experiment(settings, place, minutes=minutes, seed=seed, ordered=ordered)
    sys.stdout.write(json.dumps(report, indent=1) + "\n" if as_json else "\n".join(lines(report)) + "\n")
    return OK if report["valid"] else FAILED


def experiment(settings: Settings, place: Path, *, minutes: float, seed: int, ordered: bool = False, options: Options | None = None) -> dict[str, Any]:
    """One run in `place`: its report, which is written there too, with the picture, the ledger and what was seen."""
    for name in (REPORT, PICTURE):
        outputs.check_writable(place / name)
    settings = own_settings(settings, fresh_state(place))
    plan = draw(seed, minutes * 60, settings.kafka.session_timeout_ms / 1000)
    evidence, fates = perform(settings, plan, place, options or Options(tell=_tell))
    verdict = check(evidence.sent, evidence.seen, fates, healed_s=evidence.healed_s, bound_s=BOUND_S, ordered=ordered)
    report = compile_report(evidence, verdict, BOUND_S)
    outputs.write(place / REPORT, json.dumps(report, indent=1) + "\n")
    picture.draw(evidence, place / PICTURE)
    return report


def own_settings(settings: Settings, state: Path) -> Settings:
    """The given settings without the addresses of anybody's broker and base model, and with a state directory of the run's own."""
    changes = {
        "kafka": settings.kafka.model_copy(update={"bootstrap_servers": None}),
        "base": settings.base.model_copy(update={"url": None}),
        "index": settings.index.model_copy(update={"url": None}),
        "registry": settings.registry.model_copy(update={"tracking_uri": None}),
        "stack": settings.stack.model_copy(update={"dir": state, "broker_port": 0}),
    }
    return settings.model_copy(update=changes)


def fresh_state(place: Path) -> Path:
    """An empty `place/state`. Raises CannotContinue when a stack runs in it, when it is not ours to remove, or when it cannot be written."""
    state = place.resolve() / "state"
    try:
        if pid := holder(lock_path(state)):
            raise CannotContinue(f"a stack runs in {state} (pid {pid}); `retouch down` stops it, or choose another --out")
        if state.exists() and any(state.iterdir()) and not (state / MARKER).is_file():
            raise CannotContinue(f"{state} is not from an earlier run and would be removed; move it away, or choose another --out")
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        (state / MARKER).write_text("`retouch lab chaos` removes this directory when it runs again.\n")
    except OSError as error:
        raise CannotContinue(f"cannot write to {state}: {error.strerror or error}; choose another --out") from None
    return state


@contextmanager
def _workplace(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="retouch-chaos-") as made:
        yield Path(made)


def _tell(line: str) -> None:
    sys.stderr.write(f"chaos: {line}\n")
