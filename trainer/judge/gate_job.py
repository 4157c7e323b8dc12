"""Judges a registered version: checks its files, then compares its answers to held-out users' questions with the champion's."""

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
from trainer.data.snapshot import Snapshot
from trainer.folders import checkpoints_dir
from trainer.judge.judging import Questions, answer_questions, judge_candidate


def judge_version(settings: Settings, version: str, stop: threading.Event) -> GateResult:
    """Judges a version against the current champion. Files that no worker would load, or that transformers cannot, are rejected with the reason.

    The result is inconclusive if there are too few held-out users. Raises CannotContinue if there is no champion, or it is that version; NoSuchVersion; and
    RetryLater and CannotContinue as `collect` and `Registry.fetch` do.
    """
    registry = Registry(settings, stop=stop)
    candidate, champion = registry.get(version), registry.resolve(Alias.CHAMPION)
    if champion is None or champion.version == candidate.version:
        raise CannotContinue(f"{registry.name}: {'there is no champion' if champion is None else f'version {version} is the champion'}; a gate compares two")
    return _judge(settings, registry, candidate, champion, stop).about(candidate.digest, champion.digest)


def fetch_checkpoint(settings: Settings, registry: Registry, version: RegisteredVersion) -> Path:
    """The files of a version. Raises CannotContinue if they are not the registered ones."""
    try:
        return registry.fetch(version.version, checkpoints_dir(settings))
    except BadCheckpoint as error:
        raise CannotContinue(str(error)) from error


def _judge(settings: Settings, registry: Registry, candidate: RegisteredVersion, champion: RegisteredVersion, stop: threading.Event) -> GateResult:
    prepare_libraries(settings)
    champion_files = fetch_checkpoint(settings, registry, champion)
    try:
        files = registry.fetch(candidate.version, checkpoints_dir(settings))
    except BadCheckpoint as error:
        return GateResult(outcome="rejected", reason=str(error))
    if different := differences(champion_files, files):
        reason = f"version {candidate.version} cannot take the place of version {champion.version}: {'; '.join(different)}"
        return GateResult(outcome="rejected", reason=reason)
    snapshot = heldout_snapshot(settings, (champion, candidate), stop)
    if too_few := _too_few_users(settings, snapshot):
        return GateResult(outcome="inconclusive", reason=too_few, evidence={"heldout_users": snapshot.heldout_users, "judged_share": snapshot.judged_share})
    questions = Questions.of(settings, snapshot)
    by_champion = answer_questions(settings, champion_files, questions, stop)
    try:
        by_candidate = answer_questions(settings, files, questions, stop)
    except CannotContinue as error:  # such as weights that are missing or not finite
        return GateResult(outcome="rejected", reason=str(error).replace(f"{files}", f"version {candidate.version}"))
    result, _ = judge_candidate(settings, snapshot, questions, by_champion, by_candidate)
    return result


def prepare_libraries(settings: Settings) -> None:
    """Prepares a process that loads models: sets the trainer's number of threads, and disables progress bars between log lines."""
    torch.set_num_threads(settings.trainer.threads)
    disable_progress_bar()


def heldout_snapshot(settings: Settings, versions: tuple[RegisteredVersion, ...], stop: threading.Event) -> Snapshot:
    """The current content of the topics, with held-out users who trained none of the versions nor an ancestor."""
    return collect(settings, stop, versions)


def _too_few_users(settings: Settings, snapshot: Snapshot) -> str | None:
    trainer = settings.trainer
    if snapshot.heldout_users >= trainer.min_heldout_users:
        return None
    reason = f"{snapshot.heldout_users} held-out users with outcomes, trainer.min_heldout_users is {trainer.min_heldout_users}"
    if snapshot.judged_share < trainer.holdout_share:
        reason += f" (only users below {snapshot.judged_share:g} may judge, an ancestor may have trained on the others;"
        reason += " the tag holdout_share is the share of users who trained none)"
    return f"{reason}; register it again when more of them have given feedback"
