"""`python -m trainer --once` in two processes on the CPU: one run, one version, from the data that one process would train on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from infra.local.broker import Broker
from infra.registry.client import Registry
from infra.settings import Settings
from tests.support.tiny_model import make_checkpoint
from tests.support.trainer_traffic import send_outcomes, trainer_settings
from trainer.data.collect import collect

pytestmark = [pytest.mark.integration, pytest.mark.long("trains in two processes"), pytest.mark.timeout(900)]

USERS = [f"crowd{number}" for number in range(12)]
#: `accelerate launch --cpu` starts one process, whatever --num_processes says; on GPUs it starts them by this same module.
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RUN_S = 400.0


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return trainer_settings(
        broker,
        make_checkpoint(tmp_path / "parent", seed=1),
        tmp_path / "state",
        f"reflector-{tmp_path.name}",
        eval_queries=4,
        sft={"max_steps": 2, "batch_size": 4, "micro_batch": 1},
        rl={"engine": "trl", "steps": 2, "prompts_per_step": 2, "candidates": 2, "k_min": 1, "k_max": 2},
        lora={"rank": 2},
    )


def launch(settings: Settings) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers(),
        "RETOUCH_STACK__DIR": str(settings.stack.dir),
        "RETOUCH_REGISTRY__MODEL_NAME": settings.registry.model_name,
        "RETOUCH_REFLECTION__CHECKPOINT": str(settings.reflection.checkpoint),
        "RETOUCH_REFLECTION__MAX_NEW_TOKENS": str(settings.reflection.max_new_tokens),
        "RETOUCH_TRAINER": json.dumps(settings.trainer.model_dump(mode="json")),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.run([*LAUNCH, "-m", "trainer", "--once"], env=environment, capture_output=True, text=True, timeout=RUN_S, check=False)


def test_two_processes_train_one_version_on_the_data_that_one_process_would(settings: Settings) -> None:
    send_outcomes(settings, USERS)
    done = launch(settings)
    assert done.returncode == 0, done.stderr[-3000:]
    (report,) = (json.loads(path.read_text()) for path in (settings.stack.dir / "runs").glob("*/report.json"))
    assert (report["status"], report["version"], report["sft"]["steps"]) == ("trained", "2", 2)
    assert [step["k"] for step in report["reward_curve"]] == [1, 2]
    assert [version.version for version in Registry(settings).versions()] == ["1", "2"]
    assert collect(settings, threading.Event()).digest == report["dataset_digest"]
    for once in ("run starts", "version registered", "run finished", "follower rank finished"):
        assert done.stderr.count(f'"text": "{once}"') == 1
