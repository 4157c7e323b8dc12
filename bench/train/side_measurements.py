"""Two more measurements of `retouch bench train`: the speed of RL against TRL's, and the cost of a trajectory before training."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.targets import Bound, Target
from bench.train import collection, speed
from infra.settings import Settings

SPEED, COLLECTION = "speed", "collection"
#: Maximum growth of the cost per trajectory from the smallest to the largest size, with a margin for a shared machine.
MAX_GROWTH = 1.5


@dataclass(frozen=True)
class SideMeasurement:
    figures: dict[str, Any]
    targets: list[Target]


def measure(name: str, settings: Settings, quick: bool) -> SideMeasurement:
    """Blocks for a minute or two. Raises CannotContinue if the measurement fails."""
    return _speed(settings, quick) if name == SPEED else _collection(quick)


def _speed(settings: Settings, quick: bool) -> SideMeasurement:
    small = settings.trainer.rl.model_copy(update={"prompts_per_step": 4, "candidates": 4}) if quick else None
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, cases = speed.prepared(settings, Path(scratch))
        comparison = speed.measure(checkpoint, cases, settings, rounds=1 if quick else 5, rl=small)
    name = "RL's completions per second, times TRL's GRPOTrainer's"
    targets = [
        Target(name, Bound.AT_LEAST, speed.TARGET, comparison.ratio),
        Target(f"{name}, by token", Bound.AT_LEAST, speed.TARGET, comparison.ratio_by_token),
    ]
    return SideMeasurement(asdict(comparison), targets)


def _collection(quick: bool) -> SideMeasurement:
    costs = collection.measure(collection.SIZES[:1] if quick else collection.SIZES)
    sizes = f"{costs.costs[0].trajectories:,} to {costs.costs[-1].trajectories:,}"
    return SideMeasurement(asdict(costs), [Target(f"cost of a trajectory, growth from {sizes}", Bound.AT_MOST, MAX_GROWTH, costs.growth)])
