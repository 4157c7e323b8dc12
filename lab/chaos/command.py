"""`retouch lab chaos`: settings of the run's own, the run, the verdict, the report."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import infra.local.fresh_state
from infra.process import output_files
from infra.process.lifecycle import FAILED, OK
from infra.settings import Settings
from lab.chaos import picture
from lab.chaos.checker import check
from lab.chaos.plan import draw
from lab.chaos.report import compile_report, lines
from lab.chaos.run import BOUND_S, ChaosOptions, perform

REPORT, PICTURE = "report.json", "chaos.png"

fresh_state = partial(infra.local.fresh_state.fresh_state, command="retouch lab chaos", run="run")


def run(settings: Settings, *, minutes: float, seed: int, out: Path | None = None, ordered: bool = False, as_json: bool = False) -> int:
    """Blocks for the minutes of load, the start of the stack and its healing. Call it from the main thread.

    The run has a broker, a base model and a state directory of its own, whatever the settings name: below `out`, kept, or a temporary one.
    Exit codes: 0 no anomaly; 1 anomalies, or the system did not survive. Raises CannotContinue when the stack does not come up.
    """
    with _workplace(out) as place:
        report = experiment(settings, place, minutes=minutes, seed=seed, ordered=ordered)
    sys.stdout.write(json.dumps(report, indent=1) + "\n" if as_json else "\n".join(lines(report)) + "\n")
    return OK if report["valid"] else FAILED


def experiment(settings: Settings, place: Path, *, minutes: float, seed: int, ordered: bool = False, options: ChaosOptions | None = None) -> dict[str, Any]:
    """One run in `place`: its report, which is written there too, with the picture, the ledger and what was seen."""
    for name in (REPORT, PICTURE):
        output_files.check_writable(place / name)
    settings = own_settings(settings, fresh_state(place))
    plan = draw(seed, minutes * 60, settings.kafka.session_timeout_ms / 1000)
    evidence, fates = perform(settings, plan, place, options or ChaosOptions(tell=_tell))
    verdict = check(evidence.sent, evidence.seen, fates, healed_s=evidence.healed_s, bound_s=BOUND_S, ordered=ordered)
    report = compile_report(evidence, verdict, BOUND_S)
    output_files.write(place / REPORT, json.dumps(report, indent=1) + "\n")
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


@contextmanager
def _workplace(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="retouch-chaos-") as made:
        yield Path(made)


def _tell(line: str) -> None:
    sys.stderr.write(f"chaos: {line}\n")
