"""State changes of processes, by their supervisor."""

from __future__ import annotations

from pathlib import Path

from infra.local.stack_record import ProcessRecord, ProcessState
from lab.chaos.faults import PerformedFault, ProcessLog
from lab.chaos.plan import Fault, FaultKind


def seen(process_log: ProcessLog, at_s: float, state: ProcessState, restarts: int, pid: int | None = 7) -> None:
    process_log.poll([ProcessRecord(name="base", state=state, pid=pid, restarts=restarts, log=Path("base.log"))], at_s)


def test_a_recovery_lasts_from_the_end_of_service_to_its_return() -> None:
    process_log = ProcessLog()
    seen(process_log, 0, ProcessState.STARTING, 0)
    seen(process_log, 5, ProcessState.READY, 0)
    seen(process_log, 10, ProcessState.READY, 0, pid=None)
    seen(process_log, 10.1, ProcessState.STARTING, 1)
    seen(process_log, 14, ProcessState.READY, 1)
    assert process_log.recoveries_s() == {"base": [4.0]}


def test_an_unchanged_state_is_recorded_once() -> None:
    process_log = ProcessLog()
    for at_s in range(5):
        seen(process_log, at_s, ProcessState.READY, 0)
    assert len(process_log.changes) == 1


def test_unrequested_ends_are_counted() -> None:
    process_log = ProcessLog()
    seen(process_log, 0, ProcessState.READY, 3)
    performed = [PerformedFault(Fault(kind, "base", 0.0), 0.0, 0.0, 7) for kind in (FaultKind.KILL, FaultKind.PAUSE, FaultKind.RESTART)]
    assert process_log.unrequested_ends(performed) == {"base": 1}
    assert process_log.unrequested_ends([*performed, performed[0]]) == {}
