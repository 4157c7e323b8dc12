"""The faults of a run and their times, drawn from a seed alone: the same seed gives the same plan.

Kills and pauses are drawn without replacement from all processes, so each process gets its share. A process that was hit has a rest, because
the supervisor restarts a process that ends often after growing pauses (`infra.local.restart_pauses`), which are not under test here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")

#: The processes that answers and trajectories need. The registry is a task that ends; `lab.promotion` tests quality and promoter.
PROCESSES = ("broker", "base-endpoint", "streams", "base", "strategies", "teacher", "reflection")
#: The proxies' connections: of every process to the broker, and of the workers to the base model.
BROKER_LINK, BASE_LINK = "broker-link", "base-link"

KILLS_AND_PAUSES_A_MINUTE = 4.5
#: Other faults, equally many of each kind.
OTHERS_A_MINUTE = 3.0
#: No faults at the start and at the end of the load: the end shows whether the system answers as before.
WARM_UP_S, QUIET_S = 5.0, 30.0
LEAST_REST_S = 20.0


class FaultKind(StrEnum):
    KILL = "kill"  # SIGKILL; the supervisor restarts the process
    PAUSE = "pause"  # SIGSTOP, then SIGCONT: shorter or longer than the group's session timeout
    RESTART = "restart"  # SIGTERM and restart
    SLOW_BASE = "slow-base"  # every byte to and from the base model arrives `delay_s` later
    FAILING_BASE = "failing-base"  # each request gets `status`, or a closed connection if it is 0
    REFUSING_BASE = "refusing-base"  # each request gets `status`, which means that the endpoint refuses every prompt
    DELAY = "delay"  # every byte between the processes and the broker arrives `delay_s` later
    HOLD = "hold"  # nothing passes; sent bytes arrive after the fault, as after lost packets
    CUT = "cut"  # connections are reset and new ones refused
    BROKER_AWAY = "broker-away"  # one node of a cluster is killed, and started again after longer than its session
    UNCLEAN_RESTART = "unclean-restart"  # a node is killed and started again at once
    CONTROLLER_FAILOVER = "controller-failover"  # the active controller, which is a broker too, is killed, and started again after another one is active
    ROLLING_RESTART = "rolling-restart"  # every node in turn: SIGTERM and restart, the next one when all replicas are in sync


KILLS_AND_PAUSES = (FaultKind.KILL, FaultKind.PAUSE)
#: Of a cluster's nodes, in the order in which `lab.chaos.cluster_run` injects them.
CLUSTER_FAULTS = (FaultKind.BROKER_AWAY, FaultKind.UNCLEAN_RESTART, FaultKind.CONTROLLER_FAILOVER, FaultKind.ROLLING_RESTART)
#: The targets of the other kinds; None: each process in turn.
TARGETS = {
    FaultKind.RESTART: None,
    FaultKind.SLOW_BASE: BASE_LINK,
    FaultKind.FAILING_BASE: BASE_LINK,
    FaultKind.REFUSING_BASE: BASE_LINK,
    FaultKind.DELAY: BROKER_LINK,
    FaultKind.HOLD: BROKER_LINK,
    FaultKind.CUT: BROKER_LINK,
}


@dataclass(frozen=True)
class Fault:
    """`at_s` seconds after the start of the load, for `for_s` seconds; 0 for an instant fault."""

    kind: FaultKind
    target: str
    at_s: float
    for_s: float = 0.0
    delay_s: float = 0.0
    status: int = 0

    @property
    def ends_s(self) -> float:
        return self.at_s + self.for_s


@dataclass(frozen=True)
class FaultPlan:
    seed: int
    load_s: float
    faults: tuple[Fault, ...]  # by `at_s`


def draw_plan(seed: int, load_s: float, session_timeout_s: float) -> FaultPlan:
    """A plan for `load_s` seconds of load: faults from `WARM_UP_S` on, none in the last 30 s, or in the last quarter of a short run."""
    rng = random.Random(f"chaos/{seed}")  # noqa: S311  # a repeatable plan, no secret
    minutes = load_s / 60
    choices = _choices(rng, max(1, round(minutes * KILLS_AND_PAUSES_A_MINUTE)), round(minutes * OTHERS_A_MINUTE))
    end_s = load_s - min(QUIET_S, load_s / 4)
    slot_s = max(0.0, end_s - WARM_UP_S) / len(choices)
    faults: list[Fault] = []
    for number in range(len(choices)):
        at_s = round(WARM_UP_S + slot_s * (number + rng.uniform(0.1, 0.9)), 2)
        kind, target = choices.pop(_rested_choice(choices, faults, at_s))
        faults.append(_bounded(_fault(rng, kind, target, at_s, session_timeout_s), end_s))
    return FaultPlan(seed, load_s, tuple(faults))


def _choices(rng: random.Random, hits: int, others: int) -> list[tuple[FaultKind, str]]:
    """`hits` kills and pauses, with the other faults spread evenly among them."""
    rounds = _shuffled_rounds(rng, [(kind, name) for kind in KILLS_AND_PAUSES for name in PROCESSES])
    choices = [next(rounds) for _ in range(hits)]
    kinds, restarted = _shuffled_rounds(rng, list(TARGETS)), _shuffled_rounds(rng, PROCESSES)
    for number in range(others):
        kind = next(kinds)
        choices.insert(round((number + 0.5) * len(choices) / others), (kind, TARGETS[kind] or next(restarted)))
    return choices


def _shuffled_rounds(rng: random.Random, choices: Sequence[T]) -> Iterator[T]:
    """Endless shuffled rounds: every value once before any value again."""
    while True:
        yield from rng.sample(choices, len(choices))


def _rested_choice(choices: Sequence[tuple[FaultKind, str]], before: Sequence[Fault], at_s: float) -> int:
    """The first choice whose target has rested enough; otherwise the one whose target has rested longest. A process and its link are one target."""

    def rest(choice: tuple[FaultKind, str]) -> float:
        return min((at_s - fault.ends_s for fault in before if _same(fault.target, choice[1])), default=LEAST_REST_S)

    ready = (number for number, choice in enumerate(choices) if rest(choice) >= LEAST_REST_S)
    return next(ready, max(range(len(choices)), key=lambda number: rest(choices[number])))


def _same(first: str, second: str) -> bool:
    return first == second or {first, second} == {"broker", BROKER_LINK} or {first, second} == {"base-endpoint", BASE_LINK}


def _fault(rng: random.Random, kind: FaultKind, target: str, at_s: float, session_timeout_s: float) -> Fault:
    if kind is FaultKind.PAUSE:
        short = rng.random() < 0.5
        return Fault(kind, target, at_s, round(rng.uniform(1.0, 5.0) if short else session_timeout_s + rng.uniform(1.0, 4.0), 2))
    if kind in (FaultKind.DELAY, FaultKind.SLOW_BASE):
        return Fault(kind, target, at_s, round(rng.uniform(4.0, 12.0), 2), delay_s=round(rng.uniform(0.05, 0.5 if kind is FaultKind.DELAY else 3.0), 3))
    if kind is FaultKind.FAILING_BASE:
        return Fault(kind, target, at_s, round(rng.uniform(2.0, 8.0), 2), status=rng.choice((0, 429, 500, 503)))
    if kind is FaultKind.REFUSING_BASE:
        return Fault(kind, target, at_s, round(rng.uniform(4.0, 12.0), 2), status=rng.choice((401, 402, 403, 404)))
    if kind in (FaultKind.HOLD, FaultKind.CUT):
        return Fault(kind, target, at_s, round(rng.uniform(1.0, 8.0), 2))
    return Fault(kind, target, at_s)


def _bounded(fault: Fault, end_s: float) -> Fault:
    """Ends at `end_s` at the latest."""
    return Fault(fault.kind, fault.target, fault.at_s, round(min(fault.for_s, max(0.0, end_s - fault.at_s)), 2), fault.delay_s, fault.status)
