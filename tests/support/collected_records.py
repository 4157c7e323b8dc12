"""Records of outcomes, trajectories and erasures as a topic would give them, and snapshots of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from infra.settings import TrainerSettings
from schemas.envelope import seal
from schemas.erasures import ErasureRequest
from schemas.ids import derive, is_held_out
from schemas.outcomes import Outcome
from schemas.topics import ERASURES, OUTCOMES, TRAJECTORIES
from schemas.trajectories import Trajectory
from tests.support.outcomes import make_outcome, make_trajectory
from trainer.data.collect import assemble
from trainer.data.snapshot import Snapshot

RANGES = {"outcomes": {0: (0, 9), 1: (3, 5)}, "trajectories": {0: (0, 4)}}
TRAINING = next(f"u{n}" for n in range(99) if not is_held_out("t", f"u{n}", 0.3))
HELD_OUT = next(f"u{n}" for n in range(99) if is_held_out("t", f"u{n}", 0.3))


#: Selects nothing by share: that is `selection`'s own test.
OPEN = TrainerSettings(holdout_share=0.3, user_share=1.0, replay_share=1.0, judge_after=0.0)


def record(message: Outcome | Trajectory, offset: int = 0) -> Any:
    topic = OUTCOMES.name if isinstance(message, Outcome) else TRAJECTORIES.name
    message_id = message.outcome_id if isinstance(message, Outcome) else message.trajectory_id
    return SimpleNamespace(topic=topic, partition=0, offset=offset, headers=seal(message, id=message_id, source="/test"), value=message.to_bytes())


def erasure(user: str, at: datetime, **fields: Any) -> Any:
    request = ErasureRequest(request_id=derive("erasure", user, at), tenant="t", user=user, requested_at=at)
    sealed = {"headers": seal(request, id=request.request_id, source="/test"), "value": request.to_bytes(), "key": request.key}
    return SimpleNamespace(topic=ERASURES.name, partition=0, offset=0, timestamp=int(at.timestamp() * 1000), **(sealed | fields))


def snapshot(messages: Iterable[Outcome | Trajectory], trainer: TrainerSettings = OPEN) -> Snapshot:
    return assemble(RANGES, [record(message) for message in messages], trainer)


def texts(found: Snapshot) -> list[tuple[str, str, bool, bytes]]:
    return [(row.kind, row.row_id, row.held_out, found.spool.get(row.span)) for row in found.rows]


OUTCOMES_MADE = [make_outcome(n, user=user) for n in range(4) for user in (TRAINING, HELD_OUT)]
MESSAGES: list[Outcome | Trajectory] = [*OUTCOMES_MADE, *map(make_trajectory, OUTCOMES_MADE)]
