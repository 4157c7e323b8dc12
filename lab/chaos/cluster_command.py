"""`retouch lab cluster-chaos`: prepares the settings, runs the experiment on a cluster, checks the result, and writes the report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import infra.local.fresh_state
from infra.process import output_files
from infra.settings import Settings
from infra.settings.stream import KeyOrder
from lab.chaos.cluster_run import ClusterExperiment
from lab.chaos.command import PICTURE, REPORT, folder_of, judged, log_progress, own_settings, print_report
from lab.chaos.experiment import ChaosOptions
from lab.chaos.load import LoadSize

fresh_state = partial(infra.local.fresh_state.fresh_state, command="retouch lab cluster-chaos", run="run")


def run(settings: Settings, *, rounds: int, seed: int, queries_per_s: float, out: Path | None = None, as_json: bool = False) -> int:
    """Blocks for the start of cluster and stack, about five minutes a round, and the recovery. Call it from the main thread.

    Exit codes and files are those of `lab.chaos.command.run`. Raises CannotContinue if the cluster or the stack does not start.
    """
    options = ChaosOptions(LoadSize(queries_per_s=queries_per_s), log_progress=log_progress)
    with folder_of(out) as folder:
        return print_report(experiment(settings, folder, rounds=rounds, seed=seed, options=options), as_json)


def experiment(settings: Settings, folder: Path, *, rounds: int, seed: int, options: ChaosOptions) -> dict[str, Any]:
    """One run. Writes what `lab.chaos.command.experiment` writes. The workers keep the order of each user, and the check includes it."""
    for name in (REPORT, PICTURE):
        output_files.check_writable(folder / name)
    settings = own_settings(settings, fresh_state(folder)).changed(workers={"order": KeyOrder.KEY})
    return judged(ClusterExperiment(settings, seed, rounds, folder, options), folder, ordered=True)
