"""`retouch demo`: the closed loop on this machine, from the first event to the exam after the swap, with a report.

Each run empties the state directory `OUT/state` and keeps it, with its logs, after the end:
`RETOUCH_STACK__DIR=OUT/state retouch up` continues where the demo ended.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

import infra.local.fresh_state
from bench.demo.plan import FULL, SHORT, DemoPlan
from bench.demo.report import DemoReport
from bench.own_stores import check_own_stores
from bench.phases import PhaseProgress
from bench.usage import tree_cpu_s
from infra.errors import BadSetting, RetouchError
from infra.local.stack_record import StackRecord, record_path
from infra.process import output_files
from infra.process.lifecycle import FAILED, INTERRUPTED, OK
from infra.settings import Settings
from schemas.control_marks import ControlMarks


def run(settings: Settings, out: Path, short: bool = False, seed: int = 0, as_json: bool = False) -> int:
    """Writes `out/report.json` and `out/report.html`. Blocks for minutes; call it from the main thread.

    Exit codes: 0 no answer was lost, duplicated, dropped or mixed; 1 at least one was, or a phase failed (one line names it and its log);
    130 interrupted. Raises BadSetting for an invalid setting, or stores that are not its own.
    """
    plan = SHORT if short else FULL
    progress = PhaseProgress(cpu_s=lambda: tree_cpu_s(psutil.Process()))
    try:
        with _sigterm_as_ctrl_c():
            report, rendered = _demonstrate(settings, plan, out, short, seed, progress)
    except KeyboardInterrupt:
        progress.close()
        _write_error(f'demo: interrupted in the phase "{progress.current}"; all processes have stopped')
        return INTERRUPTED
    except BadSetting:
        progress.close()
        raise
    except RetouchError as error:
        progress.close()
        _write_error(f'demo: failed in the phase "{progress.current}": {error}')
        return FAILED
    progress.close()
    _show(report, out, as_json)
    try:
        output_files.write(out / "report.json", report.model_dump_json(indent=1) + "\n")
        output_files.write(out / "report.html", rendered)
    except RetouchError as error:
        _write_error(f"demo: {error}")
        return FAILED
    return OK if report.ok else FAILED


def _demonstrate(settings: Settings, plan: DemoPlan, out: Path, short: bool, seed: int, progress: PhaseProgress) -> tuple[DemoReport, str]:
    """The report and its page. Raises CannotContinue before the start if they cannot be written."""
    from bench.demo import page
    from bench.demo.closed_loop import ClosedLoop
    from bench.demo.report_builder import build_report

    check_own_stores(settings)
    for name in ("report.json", "report.html"):
        output_files.check_writable(out / name)
    settings = prepared(settings, plan, fresh_state(out), seed)
    demo_run = ClosedLoop(settings, plan, seed, short, progress).run()
    with progress.phase("report", "checking answers and writing the report"):
        report = build_report(demo_run, lambda answers: _trace(demo_run.settings, answers))
        return report, page.render(report)


def _has_stack_record(state: Path) -> bool:
    """Old state directories have a stack record and no marker."""
    try:
        StackRecord.model_validate_json(record_path(state).read_bytes())
    except (FileNotFoundError, ValidationError):
        return False
    return True


fresh_state = partial(infra.local.fresh_state.fresh_state, command="retouch demo", run="demonstration", is_ours=_has_stack_record)


def prepared(settings: Settings, plan: DemoPlan, state: Path, seed: int) -> Settings:
    """The given settings with the plan's sizes, the run's own state directory and its seed. Swaps are measured from log lines at level INFO."""
    level = "DEBUG" if settings.log_level == "DEBUG" else "INFO"
    return settings.changed(**plan.settings | {"stack": {"dir": state}}).changed(trainer={"seed": seed}, log_level=level)


def _trace(settings: Settings, answers: Any) -> Any:
    """Traces answers with the checkpoints that the workers fetched."""
    from bench.demo.mixed_versions import CheckpointScorer, completion_of, trace

    answers = list(answers)
    folders = {version: settings.stack.dir / "models" / version for version in sorted({version for version, _ in answers})}
    scorers = {version: CheckpointScorer(folder) for version, folder in folders.items() if folder.is_dir()}
    marks = next((scorer.marks for scorer in scorers.values()), ControlMarks())  # all versions have the same tokenizer
    return trace([(version, completion_of(response, settings.reflection_form, marks)) for version, response in answers], scorers)


def _show(report: DemoReport, out: Path, as_json: bool) -> None:
    from bench.demo.summary import show

    if as_json:
        sys.stdout.write(report.model_dump_json(indent=1) + "\n")
    else:
        show(report, out / "report.html")


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM, as a job runner sends it, stops the demo in the same way as Ctrl-C."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_error(line: str) -> None:
    sys.stderr.write(line + "\n")
