import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from infra.errors import BadSetting
from infra.process.ports import free_port
from infra.settings.training import RlSettings, SftSettings, TrainerSettings
from trainer.learn.distributed import check_launch, is_main, micro_batches, process_count

ROOT = Path(__file__).resolve().parents[4]


def test_one_process_is_the_main_one_unless_a_launcher_sets_another_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_main() and process_count() == 1
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not is_main() and process_count() == 4


def test_a_batch_is_divided_over_processes_and_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert micro_batches(256, 0, "rows") == (256, 1)
    assert micro_batches(256, 32, "rows") == (32, 8)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert micro_batches(256, 0, "rows") == (64, 1)
    assert micro_batches(256, 16, "rows") == (16, 4)
    for total, micro_batch in ((255, 0), (256, 48), (2, 0), (256, 128)):
        with pytest.raises(BadSetting, match=f"rows={total} is not a multiple of 4 processes"):
            micro_batches(total, micro_batch, "rows")


def test_a_launch_that_cannot_divide_its_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_launch(TrainerSettings())
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_launch(TrainerSettings(rl=RlSettings(engine="trl")))
    check_launch(TrainerSettings(rl=RlSettings(steps=0)))
    with pytest.raises(BadSetting, match=r"trainer\.rl\.engine=shared_prompt trains in one process, but 4 were launched; set it to trl"):
        check_launch(TrainerSettings())
    with pytest.raises(BadSetting, match=r"trainer\.rl\.prompts_per_step \* candidates=18 is not a multiple of 4"):
        check_launch(TrainerSettings(rl=RlSettings(engine="trl", prompts_per_step=9, candidates=2)))
    with pytest.raises(BadSetting, match=r"trainer\.sft\.batch_size=32 is not a multiple of 4 processes times 3 rows"):
        check_launch(TrainerSettings(sft=SftSettings(micro_batch=3), rl=RlSettings(engine="trl")))


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize(
    ("action", "code", "output"),
    [("send", 0, "{'run_id': 'ü'}"), ("fail", 1, "{}"), ("die", -9, "another process of this launch died, or was silent for")],
)
def test_other_processes_get_the_assignment_or_none_and_end_with_the_main_one(action: str, code: int, output: str) -> None:
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port("127.0.0.1")), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.support.launched_process", action]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=os.environ | launch | {"RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE, text=True) for rank in "01"
    ]
    try:
        (_, received) = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert processes[0].returncode == code and processes[1].returncode == 0
    assert received.startswith(output)


def _run(launcher: list[str], checkpoint: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    command = [*launcher, "-m", "tests.support.distributed_training", str(checkpoint), str(folder / "state"), str(folder / "result.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    completed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert completed.returncode == 0, completed.stderr[-3000:]
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result | {"weights": load_file(folder / "result.safetensors")}


@pytest.mark.long("trains in two processes and in one")
@pytest.mark.timeout(700)
def test_two_processes_train_on_the_statistics_of_the_whole_batch(tiny_checkpoint: Path, tmp_path: Path) -> None:
    # `accelerate launch --cpu` starts one process, whatever --num_processes says; on GPUs it starts them by this same module.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    alone = _run([sys.executable], tiny_checkpoint, tmp_path / "one")
    two = _run(launch, tiny_checkpoint, tmp_path / "two")
    assert (alone["processes"], two["processes"]) == (1, 2)
    assert two["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    for step, other in zip(two["steps"], alone["steps"], strict=True):
        assert step | {"seconds": 0} == pytest.approx(other | {"seconds": 0}, abs=1e-3)
    start = load_file(tiny_checkpoint / "model.safetensors")
    change, expected = (torch.cat([(weight - start[name]).flatten() for name, weight in run["weights"].items() if name in start]) for run in (two, alone))
    assert float(expected.norm()) > 0.1
    assert float(torch.cosine_similarity(change, expected, 0)) > 0.999
