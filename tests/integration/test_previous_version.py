"""Everything that version 0.1 (commit b2a7b0e) stored opens: broker data, history index, registries, snapshot, run, and the state of a stopped RL run.

`samples/previous_version.tar.xz` was made by that commit: `kafka`, `index` and `registry` by a local stack that answered three users and met one
unreadable record; `registry-tried` and `runs` by a short demo that promoted version 2 (its weights are left out); `snapshots`, `checkpoint` and `rl` by the
trainer's own tests, RL stopped after the fifth of seven steps.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from infra.kafka.topic_reader import TopicReader
from infra.local.broker import Broker
from infra.registry.client import Registry
from infra.settings import Settings, load
from infra.settings.training import RlSettings
from pico.checkpoints import REFLECTOR
from schemas.envelope import read_message
from schemas.messages import Malformed
from schemas.model_events import Alias
from schemas.promotion import VersionState
from schemas.prompts import COMPACT
from schemas.quality import Quality
from schemas.run_report import RlStep
from schemas.topics import TOPICS, dead_letter_topic
from streams.index.edge import EdgeIndex
from streams.index.tenant_filter import Scope
from tests.support.outcomes import make_case
from tests.support.token_limits import limits
from trainer.data.prompts import Prompter
from trainer.data.snapshot import load_snapshot
from trainer.learn.policy import Policy
from trainer.learn.rl_engine import RlInputs
from trainer.learn.shared_prompt_engine import train_with_shared_prompts
from trainer.promotion.version_history import VersionHistories

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SAMPLE = Path(__file__).parents[1] / "samples" / "previous_version.tar.xz"
#: Stands in the sample for the state directory, whose absolute path MLflow stores.
STATE_DIR = "/retouch-state"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sample, complete with the files that are left out because they ship."""
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(SAMPLE) as archive:
        archive.extractall(folder, filter="data")
    (artifacts,) = (folder / "registry" / "artifacts" / "models").glob("*/artifacts")
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copy(REFLECTOR / name, artifacts / name)
    _move_registry(folder / "registry" / "mlflow.db", folder)
    _move_registry(folder / "registry-tried" / "mlflow.db", folder / "tried")
    shutil.copytree(folder / "registry-tried", folder / "tried" / "registry")
    return folder


def _move_registry(database: Path, state: Path) -> None:
    columns = {
        "runs": ("artifact_uri",),
        "logged_models": ("artifact_location",),
        "experiments": ("artifact_location",),
        "model_versions": ("source", "storage_location"),
    }
    connection = sqlite3.connect(database)
    with connection:
        for table, names in columns.items():
            for name in names:
                connection.execute(f"UPDATE {table} SET {name} = replace({name}, ?, ?)", (STATE_DIR, str(state)))
    connection.close()


@pytest.fixture
def settings(stored: Path) -> Settings:
    return load(stack={"dir": stored})


def test_every_stored_record_is_read(stored: Path, settings: Settings) -> None:
    with Broker(settings) as broker:
        connected = load(stack={"dir": stored}, kafka={"bootstrap_servers": broker.bootstrap_servers})
        with TopicReader(connected, "test-previous") as reader:
            types = {topic.name: topic.message for topic in TOPICS}
            records = list(reader.read(reader.ranges(*types)))
            dead_letters = list(reader.read(reader.ranges(dead_letter_topic("interactions"))))
    messages: Counter[str] = Counter()
    for record in records:
        try:
            message, _ = read_message(types[record.topic], record.headers, record.value)
        except Malformed:
            assert record.topic == "interactions" and record.value == b"{"
        else:
            if isinstance(message, Quality):
                assert record.key == message.key  # a new record replaces the stored one
            messages[record.topic] += 1
    assert messages["interactions"] == 21  # 18 of the platform and three users' own answers
    assert all(messages[topic] == 3 for topic in ("queries", "drafts", "contexts", "responses", "feedback", "outcomes"))
    assert messages["model-events"] and messages["serving"] and messages["quality"]
    assert [letter.value for letter in dead_letters] == [b"{"]


async def test_the_index_opens_and_is_searched(stored: Path, settings: Settings) -> None:
    index = EdgeIndex(settings.index_dir, dimension=384, embedder=settings.embedder.model)
    try:
        scope, later = Scope("default", "ada"), datetime(2026, 12, 1, tzinfo=UTC)
        assert await index.count(scope) == 7
        items = await index.search(scope, np.ones(384, dtype=np.float32) / np.sqrt(384), later, "movie_tag", 6)
        assert len(items) == 6 and all(item.response in ("comedy", "drama") for item in items)
    finally:
        await index.close()


def test_the_registry_opens_and_its_champion_is_fetched(settings: Settings, tmp_path: Path) -> None:
    registry = Registry(settings)
    champion = registry.resolve(Alias.CHAMPION)
    assert champion is not None and champion.version == "1" and champion.state is VersionState.CHAMPION
    assert (registry.fetch("1", tmp_path) / "model.safetensors").read_bytes() == (REFLECTOR / "model.safetensors").read_bytes()


def test_the_history_of_a_promoted_version_is_read(stored: Path) -> None:
    versions = VersionHistories.of(Registry(load(stack={"dir": stored / "tried"})).versions())
    assert versions.champion is not None and versions.champion.version == "2"
    states = [transition.after for transition in versions.champion.transitions]
    assert states == [VersionState.GATED, VersionState.SHADOW, VersionState.CANARY, VersionState.CHAMPION]
    assert versions.champion.canary_prompts and [version.version for version in versions.former] == ["1"]


def test_a_snapshot_is_loaded_and_has_its_digest(stored: Path, settings: Settings) -> None:
    (folder,) = (stored / "snapshots").iterdir()
    snapshot = load_snapshot(settings, folder.name)
    assert snapshot.training and snapshot.heldout and snapshot.sft_examples


def test_a_stopped_rl_run_resumes_at_its_step(stored: Path, tmp_path: Path) -> None:
    """Without comparing floats: another processor may round in another way."""
    shutil.copytree(stored / "rl", tmp_path / "rl")
    expected = json.loads((stored / "expected.json").read_text())["steps"]
    policy = Policy.load(stored / "checkpoint")
    rl = RlSettings(steps=7, prompts_per_step=2, candidates=4, learning_rate=1e-2, beta=0.1, k_min=1, k_max=3)
    trained: list[RlStep] = []
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512, 6))
    steps = train_with_shared_prompts(
        RlInputs(policy, [make_case(n) for n in range(5)], prompter, rl, 3, threading.Event(), tmp_path / "rl", trained.append, checkpoint_every=3)
    )
    assert [step.step for step in steps] == list(range(7))
    restored = [(step.reward, step.kl, step.entropy) for step in steps[:5]]
    assert restored == [(step["reward"], step["kl"], step["entropy"]) for step in expected[:5]]
