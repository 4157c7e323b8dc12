"""Promotes versions of HYDRA by the state machine of the reflection model, without shadow and canary: HYDRA has no draft to compare with.

The stages are the gate, whose result the training run stored, approval by a person if `promotion.approval` says so, and champion. So there is nothing to wait
for but a person, and no process runs for it: the trainer writes the transitions after a run, and `retouch models --model hydra` those of an operator. Each
holds a lease of its own in the state directory.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime

from infra.registry.client import RegisteredVersion
from infra.settings import Settings
from schemas.gate import GateResult
from schemas.leases import LeaseName
from schemas.promotion import VersionState
from trainer.interruption import check_stop
from trainer.judge.gate import GATE, gate_of
from trainer.promotion.promoter import Promoter, PromotionRegistry
from trainer.promotion.state_machine import ACTOR, first_champion
from trainer.promotion.version_history import VersionHistories
from trainer.run.lease import awaited_lease

#: An operator's command holds the lease for a second.
LEASE_WITHIN_S = 60.0
ANOTHER_CHAMPION = "it was judged against another champion; the next training run judges a newer version against the present one"


class StoredGates:
    """A `promoter.GateJudge` that returns the result in a version's tag. A version that was judged against another champion is not judged again."""

    def judge(self, version: RegisteredVersion | None, champion: RegisteredVersion | None) -> GateResult | None:
        if version is None or champion is None:
            return None
        return gate_of(version, champion) or GateResult(outcome="inconclusive", reason=ANOTHER_CHAMPION)


def promote_versions(settings: Settings, registry: PromotionRegistry, stop: threading.Event) -> None:
    """Write every transition that is due, until a person must approve one. Repeating it changes nothing.

    Raises RetryLater if the registry does not answer, or if a command holds the lease for long; CannotContinue if another process writes; Interrupted.
    """
    with awaited_lease(settings, LeaseName.HYDRA, stop, LEASE_WITHIN_S) as check_lease:
        _promote_first(registry)
        stages = settings.promotion.model_copy(update={"shadow_answers": 0, "canary_answers": 0})
        promoter = Promoter(registry, stages, announce=lambda event: None, gates=StoredGates(), check_lease=check_lease)
        while promoter.reconcile():
            check_stop(stop)


def _promote_first(registry: PromotionRegistry) -> None:
    """The first version that passed the gate becomes champion at once, since no other version answers. Those before it keep their result."""
    histories = VersionHistories.of(registry.versions())
    while histories.champion is None:
        now = datetime.now(UTC)
        waiting = next(iter(histories.in_state(VersionState.GATED) or histories.in_state(VersionState.REGISTERED)), None)
        if waiting is None:
            return
        result = _stored(waiting)
        if result.outcome == "passed":
            write = first_champion(histories, waiting, ACTOR, result.reason, now)
        else:
            after = VersionState.REJECTED if result.outcome == "rejected" else VersionState.INCONCLUSIVE
            write = histories.transition(waiting, after, ACTOR, result.reason, now, evidence=result.evidence)
        if write is None:
            return
        registry.record(write.version, write.transition)
        histories = histories.replacing(registry.get(write.version))


def _stored(version: RegisteredVersion) -> GateResult:
    try:
        return GateResult.model_validate(json.loads(version.tags[GATE]))
    except (KeyError, ValueError, RecursionError):
        return GateResult(outcome="inconclusive", reason="it has no readable gate result")
