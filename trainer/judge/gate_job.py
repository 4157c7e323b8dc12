"""Judging versions that are in the registry, whoever put them there: their files are checked first, then they answer what held-out users asked."""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from infra.checkpoints.verification import BadCheckpoint, differences
from infra.errors import CannotContinue
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.gate import GateResult
from schemas.model_events import Alias
from trainer.data.collect import collect
from trainer.data.holdout import untouched_share
from trainer.data.snapshot import Snapshot
from trainer.folders import checkpoints_dir
from trainer.judge.judging import Questions, answered, judge


def judge_version(settings: Settings, version: str, stop: threading.Event) -> GateResult:
    """Judge a version against the champion of now. Files that no worker would load, and a model that transformers cannot, are rejected by name.

    Too few held-out users are inconclusive: nothing is known against it, nor for it. Raises CannotContinue where there is no champion to compare with,
    or it is that version; NoSuchVersion; and RetryLater and CannotContinue as `collect` and `Registry.fetch` do.
    """
    registry = Registry(settings)
    candidate, champion = registry.get(version), registry.resolve(Alias.CHAMPION)
    if champion is None or champion.version == candidate.version:
        raise CannotContinue(f"{registry.name}: {'there is no champion' if champion is None else f'version {version} is the champion'}; a gate compares two")
    return _judged(settings, registry, candidate, champion, stop).about(candidate.digest, champion.digest)


def fetched(settings: Settings, registry: Registry, version: RegisteredVersion) -> Path:
    """The files of a version that is relied on. Raises CannotContinue where they are not what was registered."""
    try:
        return registry.fetch(version.version, checkpoints_dir(settings))
    except BadCheckpoint as error:
        raise CannotContinue(str(error)) from error


def _judged(settings: Settings, registry: Registry, candidate: RegisteredVersion, champion: RegisteredVersion, stop: threading.Event) -> GateResult:
    prepare(settings)
    serving = fetched(settings, registry, champion)
    try:
        files = registry.fetch(candidate.version, checkpoints_dir(settings))
    except BadCheckpoint as error:
        return GateResult(outcome="rejected", reason=str(error))
    if different := differences(serving, files):
        return GateResult(outcome="rejected", reason=f"version {candidate.version} cannot take the place of version {champion.version}: {'; '.join(different)}")
    snapshot = heldout(settings, (champion, candidate), stop)
    if few := _too_few(settings, snapshot):
        return GateResult(outcome="inconclusive", reason=few, evidence={"heldout_users": snapshot.heldout_users, "judged_share": snapshot.judged_share})
    questions = Questions.of(settings, snapshot)
    by_champion = answered(settings, serving, questions, stop)
    try:
        by_candidate = answered(settings, files, questions, stop)
    except CannotContinue as error:  # such as weights that are missing or not finite
        return GateResult(outcome="rejected", reason=str(error).replace(f"{files}", f"version {candidate.version}"))
    result, _ = judge(settings, snapshot, questions, by_champion, by_candidate)
    return result


def prepare(settings: Settings) -> None:
    """For a process that loads models: so many threads as the trainer has, and no bars between our lines."""
    torch.set_num_threads(settings.trainer.threads)
    disable_progress_bar()


def heldout(settings: Settings, versions: tuple[RegisteredVersion, ...], stop: threading.Event) -> Snapshot:
    """What the topics hold now; judged by users whom none of the versions, nor an ancestor, ever saw, and by what they asked late."""
    return collect(settings, stop, min(map(untouched_share, versions)))


def _too_few(settings: Settings, snapshot: Snapshot) -> str | None:
    trainer = settings.trainer
    if snapshot.heldout_users >= trainer.min_heldout_users:
        return None
    found = f"{snapshot.heldout_users} held-out users with outcomes, trainer.min_heldout_users is {trainer.min_heldout_users}"
    if snapshot.judged_share < trainer.holdout_share:
        found += (
            f" (only users below {snapshot.judged_share:g} may judge, an ancestor may have trained on the others; the tag holdout_share says whom it never saw)"
        )
    return f"{found}; register it again when more of them have told what they think"
