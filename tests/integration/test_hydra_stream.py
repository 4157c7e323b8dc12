"""HYDRA in a training run on a real broker and registry, with a tiny encoder and a scripted base model; then a strategies worker follows its champion."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from infra.checkpoints.verification import checkpoint_digest
from infra.errors import RetryLater
from infra.hydra.checkpoint import Part, load_hydra, user_digest, verify_hydra
from infra.kafka.clients import producer, send
from infra.local.broker import Broker
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.ids import is_held_out
from schemas.model_events import Alias
from schemas.topics import OUTCOMES, TRAJECTORIES
from tests.support.openai_server import OpenAiServer, ScriptedAnswer, completion, failure, serving
from tests.support.outcomes import make_outcome, make_trajectory
from tests.support.tiny_encoder import make_encoder, settings_for
from tests.support.tiny_model import make_checkpoint
from tests.support.trainer_traffic import trainer_settings
from tests.support.worker_messages import make_item
from trainer.promotion.bootstrap import bootstrap
from trainer.promotion.discovery import hydra_promoter
from trainer.promotion.hydra import promote_versions
from trainer.run.report import RunReportFile
from trainer.run.training_run import run_training
from workers.strategies.hydra_models import HydraModels

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

USERS = [f"reader{number}" for number in range(8)]
#: Not held out.
NEW = next(f"newcomer{number}" for number in range(99) if not is_held_out("t", f"newcomer{number}", 0.3))
OPTIONS = ("right", "wrong")


class BaseModel:
    """Answers right and wrong in turn; with status 503 once `left` requests were answered."""

    def __init__(self) -> None:
        self.left = 1 << 20
        self.answered: list[str] = []

    def __call__(self, body: dict[str, Any]) -> ScriptedAnswer:
        if len(self.answered) >= self.left:
            return failure(503)
        self.answered.append(json.dumps(body))
        return completion(*(OPTIONS[n % 2] for n in range(body.get("n", 1))))


def send_outcomes(settings: Settings, users: Sequence[str]) -> None:
    """Four outcomes of each user, with trajectories of those who are not held out."""
    to = producer(settings, "test")
    for user in users:
        for number in range(4):
            outcome = make_outcome(number, user=user, options=OPTIONS, base="wrong", truth="right")
            send(to, OUTCOMES, outcome, id=outcome.outcome_id, source="/test")
            if not is_held_out("t", user, 0.3):
                trajectory = make_trajectory(outcome)
                send(to, TRAJECTORIES, trajectory, id=trajectory.trajectory_id, source="/test")
    to.close()


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel()


@pytest.fixture(scope="module")
def endpoint(base: BaseModel) -> Iterator[OpenAiServer]:
    with serving(base) as server:
        yield server


@pytest.fixture(scope="module")
def settings(broker: Broker, endpoint: OpenAiServer, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """With the outcomes of all users on the broker, four of each."""
    folder = tmp_path_factory.mktemp("hydra")
    checkpoint = make_checkpoint(folder / "parent", seed=1)
    few = {"sft": {"max_steps": 1, "batch_size": 2}, "rl": {"steps": 0}, "eval_queries": 6, "replay_share": 1.0, "judge_after": 0.0}
    own = trainer_settings(broker, checkpoint, folder / "state", f"reflector-{folder.name}", **few)
    hydra = settings_for(make_encoder(folder / "encoder"), epochs=1, min_rows=2).model_copy(update={"train": True, "model_name": f"hydra-{folder.name}"})
    send_outcomes(own, USERS)
    return own.changed(base={"url": endpoint.url, "attempts": 1, "concurrency": 1}).model_copy(update={"hydra": hydra})


def hydra_registry(settings: Settings) -> Registry:
    return Registry(settings, settings.hydra.model_name)


def trained(settings: Settings) -> RunReportFile:
    return run_training(settings, threading.Event(), bootstrap, promote_hydra=promote_versions)


def test_a_run_trains_and_promotes_hydra_and_asks_nothing_twice(settings: Settings, base: BaseModel) -> None:
    base.left = 20
    with pytest.raises(RetryLater, match="status 503"):
        trained(settings)
    assert len(base.answered) == 20 and hydra_registry(settings).versions() == []
    (reflection, own) = Registry(settings).versions()  # the reflection model's version does not wait for HYDRA
    assert (reflection.version, own.parent) == ("1", "1")
    base.left = 1 << 20
    report = trained(settings)
    assert len(set(base.answered)) == len(base.answered) > 20
    data = json.loads(report.path.read_text())
    assert (data["status"], data["starts"], data["version"]) == ("trained", 2, "2")
    (version,) = hydra_registry(settings).versions()
    assert data["hydra"] == {"name": version.name, "version": "1", "digest": version.digest, "reason": version.tags["decision"]}
    assert version.aliases == (Alias.CHAMPION,) and version.parent is None
    assert version.dataset is not None and (version.dataset.digest, version.tags["run_id"]) == (data["dataset_digest"], report.run_id)
    assert {"reranker/loss", "scorer/rows", "eval/overall/rag", "eval/overall/candidate"} <= set(version.metrics)
    assert "not significantly worse: against rag" in version.tags["decision"] and "hydra" in data["seconds"]
    assert not (report.path.parent / "state").exists()
    shown = hydra_promoter(settings).view()
    assert (shown.name, shown.champion, shown.versions[0].state) == (version.name, "1", "champion")

    folder = hydra_registry(settings).fetch("1", settings.stack.dir / "fetched")
    assert verify_hydra(folder, version.digest, version.files) == checkpoint_digest(folder)
    heads = load_hydra(folder).heads
    assert set(heads.rows(Part.SCORER)) <= {user_digest(f"t/{user}") for user in USERS}

    asked = len(base.answered)
    again = trained(settings)  # the same data once more: a second version, judged against the first
    first, second = hydra_registry(settings).versions()
    assert again.data.hydra is not None and again.data.hydra.version == "2" and len(base.answered) > asked
    assert json.loads(second.tags["gate"])["evidence"]["champion"] == first.digest
    assert "against champion" in second.tags["decision"]


def test_with_few_new_outcomes_a_run_adds_heads_of_new_users_only(settings: Settings) -> None:
    """After the runs above."""
    few, registry = settings.changed(hydra={"retrain_outcomes": 1_000_000}), hydra_registry(settings)
    nobody = trained(few)
    assert nobody.data.hydra is not None and "no new user" in nobody.data.hydra.reason
    champion = registry.resolve(Alias.CHAMPION)
    send_outcomes(settings, [NEW])
    trained(few)
    newest = registry.versions()[-1]
    assert champion is not None and (newest.parent, newest.tags["encoders"]) == (champion.version, champion.tags["encoders"])
    assert newest.dataset is not None and champion.dataset is not None and newest.dataset.digest != champion.dataset.digest
    before, after = (load_hydra(registry.fetch(version, settings.stack.dir / "fetched")) for version in (champion.version, newest.version))
    for part in Part:
        assert set(after.heads.rows(part)) - set(before.heads.rows(part)) == {user_digest(f"t/{NEW}")}
        pairs = zip(before.networks[part].encoder.parameters(), after.networks[part].encoder.parameters(), strict=True)
        assert all(torch.equal(old, new) for old, new in pairs)
        kept = before.networks[part].heads.count
        assert torch.equal(after.networks[part].heads.dense_weight[:kept], before.networks[part].heads.dense_weight)


def test_a_strategies_worker_answers_with_the_champion(settings: Settings) -> None:
    """After the run above."""
    champion = hydra_registry(settings).resolve(Alias.CHAMPION)
    assert champion is not None

    async def served() -> None:
        models = HydraModels(settings, hydra_registry(settings))
        await models.poll()
        loaded = await models.current()
        assert loaded is not None and loaded.version == champion.model
        assert sorted(await loaded.rank(f"t/{USERS[0]}", "a film", [make_item(n) for n in range(3)])) == [0, 1, 2]
        assert await loaded.choose(f"t/{USERS[0]}", "tag : a film", ["wrong"]) == 0

    asyncio.run(served())


def test_without_enough_history_the_run_ends_without_hydra(settings: Settings) -> None:
    least = settings.changed(hydra={"min_rows": 1000, "model_name": f"{settings.hydra.model_name}-none"}, stack={"dir": settings.stack.dir / "other"})
    report = trained(least.changed(registry={"model_name": f"{settings.registry.model_name}-none"}))
    assert report.data.status == "trained" and report.data.hydra is not None
    assert report.data.hydra.version is None and "hydra.min_rows=1000" in report.data.hydra.reason
