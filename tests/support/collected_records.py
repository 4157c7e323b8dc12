"""Records of outcomes, trajectories and erasures as a topic returns them, and snapshots of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from infra.settings.training import TrainerSettings
from schemas.envelope import envelope_headers
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


#: No record is left out because of a share: test_record_selection.py tests those.
NO_LIMITS = TrainerSettings(holdout_share=0.3, user_share=1.0, replay_share=1.0, judge_after=0.0)


def record_of(message: Outcome | Trajectory, offset: int = 0) -> Any:
    topic = OUTCOMES.name if isinstance(message, Outcome) else TRAJECTORIES.name
    message_id = message.outcome_id if isinstance(message, Outcome) else message.trajectory_id
    return SimpleNamespace(topic=topic, partition=0, offset=offset, headers=envelope_headers(message, id=message_id, source="/test"), value=message.to_bytes())


def erasure_record(user: str, at: datetime, **fields: Any) -> Any:
    request = ErasureRequest(request_id=derive("erasure", user, at), tenant="t", user=user, requested_at=at)
    sealed = {"headers": envelope_headers(request, id=request.request_id, source="/test"), "value": request.to_bytes(), "key": request.key}
    return SimpleNamespace(topic=ERASURES.name, partition=0, offset=0, timestamp=int(at.timestamp() * 1000), **(sealed | fields))


def make_snapshot(messages: Iterable[Outcome | Trajectory], trainer: TrainerSettings = NO_LIMITS) -> Snapshot:
    return assemble(RANGES, [record_of(message) for message in messages], trainer)


def row_texts(snapshot: Snapshot) -> list[tuple[str, str, bool, bytes]]:
    return [(row.kind, row.row_id, row.held_out, snapshot.spool.get(row.span)) for row in snapshot.rows]


ALL_OUTCOMES = [make_outcome(n, user=user) for n in range(4) for user in (TRAINING, HELD_OUT)]
MESSAGES: list[Outcome | Trajectory] = [*ALL_OUTCOMES, *map(make_trajectory, ALL_OUTCOMES)]
