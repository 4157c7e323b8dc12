"""Both engines of judging complete prompts alike; vLLM runs in a process of its own."""

import importlib.util
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infra.checkpoints import size
from infra.errors import CannotContinue
from infra.settings.models import Dtype, EngineKind
from infra.settings.training import TrainerSettings
from pico.checkpoints import REFLECTOR
from schemas.prompts import COMPACT
from tests.support.outcomes import make_case
from tests.support.token_limits import limits
from trainer.data.prompts import Prompter
from trainer.interruption import Interrupted
from trainer.judge.completion import PolicyCompleter, VllmCompleter, completer_of, served_dtype
from trainer.learn.policy import Policy

pytestmark = pytest.mark.timeout(600)
on_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
VLLM, AUTO = TrainerSettings(judge_engine=EngineKind.VLLM, generate_rows=4), TrainerSettings()


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.set_num_threads(1)
    return Policy.load(REFLECTOR)


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[list[int]]:
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    cases = [make_case(number, items=1 + number % 3) for number in range(10)]
    return [prompter.chat.ids(prompter.text(case, case.items) or "") for case in cases]


@on_vllm
@pytest.mark.slow
def test_vllm_completes_prompts_as_our_own_sampling_does(policy: Policy, prompts: list[list[int]]) -> None:
    by_vllm, ours = (completer_of(trainer, policy, len(prompts), threading.Event()) for trainer in (VLLM, AUTO))
    assert isinstance(by_vllm, VllmCompleter) and isinstance(ours, PolicyCompleter)
    limits = [32] * 9 + [5]
    theirs, own = by_vllm.complete(prompts, limits), ours.complete(prompts, limits)
    assert sum(a == b for a, b in zip(theirs, own, strict=True)) >= 8  # rounding may decide between two tokens
    assert all(row[-1] in policy.end_ids or len(row) == limit for row, limit in zip(theirs, limits, strict=True)) and len(theirs[-1]) <= 5
    assert sum(len(row) > 5 for row in theirs) and any(row[-1] in policy.end_ids for row in theirs)


@on_vllm
@pytest.mark.slow
def test_a_vllm_that_fails_is_an_error_or_replaced_with_auto(policy: Policy, prompts: list[list[int]], tmp_path: Path) -> None:
    broken = replace(policy, origin=tmp_path)
    completer = VllmCompleter(broken, 4, 1, "float32", falls_back=False, stop=threading.Event())
    with pytest.raises(CannotContinue, match="vLLM could not complete the prompts"):
        completer.complete(prompts[:1], [4])
    assert replace(completer, falls_back=True).complete(prompts[:1], [4]) == PolicyCompleter(policy, 4, threading.Event()).complete(prompts[:1], [4])


@on_vllm
def test_a_stop_ends_vllm_at_once(policy: Policy, prompts: list[list[int]]) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        completer_of(VLLM, policy, 1, stop).complete(prompts[:1], [4])


@on_vllm
def test_auto_is_vllm_for_many_prompts_of_a_large_checkpoint(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(prompts: int) -> type:
        return type(completer_of(AUTO, policy, prompts, threading.Event()))

    assert kind(1000) is PolicyCompleter  # 2 MB
    monkeypatch.setattr(size, "VLLM_FROM_BYTES", 1000)
    assert kind(1000) is (PolicyCompleter if torch.cuda.is_available() else VllmCompleter) and kind(10) is PolicyCompleter


def test_shipped_checkpoints_are_judged_in_float32_as_they_serve() -> None:
    assert served_dtype(Dtype.AUTO, REFLECTOR) is torch.float32
    assert served_dtype(Dtype.BFLOAT16, REFLECTOR) is torch.bfloat16
