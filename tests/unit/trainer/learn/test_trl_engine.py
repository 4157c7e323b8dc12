# axes are capital letters: P prompts, G completions
import shutil
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from infra.errors import BadSetting, CannotContinue
from infra.settings.training import LoraSettings, RlSettings, TrainerSettings
from schemas.domain_entries import DomainEntry
from schemas.domains import BUILT_IN_DOMAINS, Domains
from schemas.prompts import COMPACT
from schemas.run_report import RlStep
from tests.support.outcomes import make_case
from tests.support.token_limits import limits
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.interruption import Interrupted
from trainer.learn.curriculum import schedule_prompts
from trainer.learn.lora import trainable_policy
from trainer.learn.policy import Policy
from trainer.learn.policy_training import train_rl
from trainer.learn.rewards import Reward
from trainer.learn.rl_engine import Diverged, RlInputs, rate_schedule
from trainer.learn.rollout import PolicyCompletion, log_probabilities
from trainer.learn.shared_prompt_engine import RolloutBatch, update_policy

RL = RlSettings(engine="trl", steps=4, prompts_per_step=2, candidates=8, learning_rate=2e-2, beta=0.05, k_min=1, k_max=2, top_p=1.0)
CASES = [make_case(n) for n in range(4)]
FULL_WEIGHTS, ADAPTER = TrainerSettings(), TrainerSettings(lora=LoraSettings(rank=4, alpha=8.0))


def reward_of(text: str, ended: bool, case: QueryCase, domains: Domains) -> Reward:
    """The share of small letters, a tenth of what a random model writes."""
    return Reward(sum(map(str.islower, text)) / max(1, len(text)), usable=ended)


@pytest.fixture(autouse=True)
def small_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("trainer.learn.shared_prompt_engine", "trainer.learn.trl_trainer"):
        monkeypatch.setattr(f"{module}.reward_of", reward_of)


@pytest.fixture(params=[FULL_WEIGHTS, ADAPTER], ids=["full weights", "LoRA"])
def policy(tiny_checkpoint: Path, request: pytest.FixtureRequest) -> Policy:
    return trainable_policy(tiny_checkpoint, request.param)


def prompter_of(policy: Policy) -> Prompter:
    return Prompter(policy.tokenizer, COMPACT, limits(512, 6))


def inputs_of(policy: Policy, rl: RlSettings = RL, cases: Sequence[QueryCase] = CASES, prompter: Prompter | None = None, **more: Any) -> RlInputs:
    return RlInputs(policy, cases, prompter or prompter_of(policy), rl, 0, more.pop("stop", threading.Event()), **more)


def train(policy: Policy, rl: RlSettings, **more: Any) -> list[RlStep]:
    return train_rl(inputs_of(policy, rl, **more))


def copied(weights: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}


def random_completions(rows: int, width: int) -> list[list[int]]:
    """Of unlike lengths, some ended by the end token."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 250, (1 + row % width,), generator=generator).tolist() + ([258] if row % 3 else []) for row in range(rows)]


@pytest.mark.parametrize("micro_batch", [0, 4])
def test_both_engines_make_the_same_steps_of_the_same_completions(policy: Policy, monkeypatch: pytest.MonkeyPatch, micro_batch: int) -> None:
    rl = RL.model_copy(update={"steps": 3, "micro_batch": micro_batch})
    fixed = random_completions(rl.prompts_per_step * rl.candidates, 5)
    assert policy.end_ids == (258,)
    monkeypatch.setattr("trl.GRPOTrainer._generate_single_turn", lambda self, prompts, *rest: (fixed, None))
    twin = trainable_policy(policy.origin, FULL_WEIGHTS if policy.peft is None else ADAPTER)
    start = copied(policy.weights())
    steps = train(policy, rl)

    schedule = schedule_prompts(inputs_of(twin, rl))
    reference = trainable_policy(policy.origin, FULL_WEIGHTS if policy.peft is None else ADAPTER)
    optimizer = torch.optim.AdamW([w for w in twin.model.parameters() if w.requires_grad], betas=(0.9, 0.95), weight_decay=0.0)
    for step, rows in zip(steps, schedule.prompts, strict=True):
        prompts = [prompter_of(twin).chat.ids(row.prompt) for row in rows]
        tokens = [fixed[n : n + rl.candidates] for n in range(0, len(fixed), rl.candidates)]
        with torch.no_grad():
            logp, _, _ = log_probabilities(twin, prompts, tokens)
        groups = [
            [PolicyCompletion(ids, ids[-1] == 258, sampled[: len(ids)]) for ids, sampled in zip(group, of_group, strict=True)]
            for group, of_group in zip(tokens, logp.tolist(), strict=True)
        ]
        rewards = [
            [
                reward_of(twin.tokenizer.decode(completion.token_ids, skip_special_tokens=True), completion.ended, CASES[0], BUILT_IN_DOMAINS)
                for completion in group
            ]
            for group in groups
        ]
        optimizer.param_groups[0]["lr"] = rl.learning_rate * rate_schedule(rl.steps)(step.step)
        batch = RolloutBatch(prompts, groups, rewards, [row.shown for row in rows])
        _, kl, entropy = update_policy(twin, reference, batch, rl, optimizer, 32_768)
        assert step.kl == pytest.approx(kl, abs=2e-3)
        assert step.entropy == pytest.approx(entropy, rel=1e-3)
    assert steps[-1].kl != 0.0
    change, expected = (torch.cat([(w - start[name]).flatten() for name, w in trained.weights().items() if name in start]) for trained in (policy, twin))
    assert float(expected.norm()) > 0.1
    assert float(torch.cosine_similarity(change, expected, 0)) > 0.999


def test_a_completion_beyond_the_limit_of_its_domain_counts_as_cut_off(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, ended = Policy.load(tiny_checkpoint), set[tuple[str, bool]]()

    def recorded(text: str, has_ended: bool, case: QueryCase, domains: Domains) -> Reward:
        ended.add((case.domain, has_ended))
        return Reward(float(has_ended), usable=has_ended)

    monkeypatch.setattr("trainer.learn.trl_trainer.reward_of", recorded)
    given = [[7, 7, 7, 7, 7, 258]] * (RL.prompts_per_step * RL.candidates)
    monkeypatch.setattr("trl.GRPOTrainer._generate_single_turn", lambda self, prompts, *rest: (given, None))
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512, 8, Domains({"brief": DomainEntry(max_new_tokens=1)})))
    train(policy, RL.model_copy(update={"steps": 2}), prompter=prompter, cases=[make_case(0), make_case(1, domain="brief")])
    assert ended == {("letters", True), ("brief", False)}


def test_the_reward_rises_and_the_steps_record_the_curriculum(tiny_checkpoint: Path) -> None:
    steps = train(Policy.load(tiny_checkpoint), RL.model_copy(update={"steps": 20, "candidates": 16, "beta": 0.001}))
    assert [step.k for step in steps] == [1] * 10 + [2] * 10 and [step.stage for step in steps] == [0] * 10 + [1] * 10
    assert [step.step for step in steps] == list(range(20))
    assert all(step.shown == step.k for step in steps)
    assert steps[0].kl == pytest.approx(0.0, abs=1e-4)
    assert steps[-1].reward > steps[0].reward + 0.2


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The reference policy's weights after each step."""
    from trainer.learn.trl_trainer import ReinforceTrainer  # slow to import

    recorded: list[dict[str, torch.Tensor]] = []
    log = ReinforceTrainer.log

    def record_and_log(trainer: Any, *arguments: Any) -> None:
        if trainer.ref_model is not None:
            recorded.append(copied(trainer.ref_model.state_dict()))
        else:
            adapter = {name: w for name, w in trainer._policy.model.named_parameters() if ".ref." in name}
            assert not any(weight.requires_grad for weight in adapter.values())
            recorded.append(copied({name.replace(".ref.", ".default."): weight for name, weight in adapter.items()}))
        log(trainer, *arguments)

    monkeypatch.setattr(ReinforceTrainer, "log", record_and_log)
    return recorded


def test_the_reference_stays_the_policy_before_rl(policy: Policy, references: list[dict[str, torch.Tensor]], tmp_path: Path) -> None:
    with torch.no_grad():  # as after SFT, unlike the file it was read from
        for weight in policy.model.parameters():
            if weight.requires_grad:
                weight.add_(0.01)
    before_rl = copied(policy.model.state_dict())
    train(policy, RL, state_dir=tmp_path / "rl")
    assert len(references) > RL.steps and all(references)
    for reference in references:
        assert all(torch.equal(weight, before_rl[name]) for name, weight in reference.items())
    if policy.peft is None:
        assert all(torch.equal(weight, before_rl[name]) for name, weight in load_file(tmp_path / "rl" / "anchor" / "model.safetensors").items())
    assert policy.model.state_dict().keys() == before_rl.keys()
    assert any(not torch.equal(weight, before_rl[name]) for name, weight in policy.model.state_dict().items())


def test_a_stopped_run_resumes_to_the_same_end(policy: Policy, tiny_checkpoint: Path, tmp_path: Path) -> None:
    twin = trainable_policy(tiny_checkpoint, FULL_WEIGHTS if policy.peft is None else ADAPTER)
    expected = train(twin, RL, state_dir=tmp_path / "whole", checkpoint_every=1)
    stop = threading.Event()
    with pytest.raises(Interrupted):
        train(policy, RL, state_dir=tmp_path / "cut", checkpoint_every=10, stop=stop, on_step=lambda step: stop.set() if step.step == 1 else None)
    shutil.copytree(tmp_path / "cut" / "states" / "checkpoint-3", tmp_path / "cut" / "states" / "checkpoint-4")
    (tmp_path / "cut" / "states" / "checkpoint-4" / "retouch.json").unlink()  # a kill while the next state was being written
    resumed = trainable_policy(tiny_checkpoint, FULL_WEIGHTS if policy.peft is None else ADAPTER)
    reported: list[RlStep] = []
    steps = train(resumed, RL, state_dir=tmp_path / "cut", on_step=reported.append)
    assert reported == steps and len(steps) == RL.steps
    for step, expected_step in zip(steps, expected, strict=True):
        assert asdict(step) | {"seconds": 0} == pytest.approx(asdict(expected_step) | {"seconds": 0}, abs=1e-5)
    assert all(torch.allclose(weight, twin.weights()[name], atol=1e-5) for name, weight in resumed.weights().items())
    finished = trainable_policy(tiny_checkpoint, FULL_WEIGHTS if policy.peft is None else ADAPTER)
    assert train(finished, RL, state_dir=tmp_path / "cut") == steps
    assert all(torch.equal(weight, resumed.weights()[name]) for name, weight in finished.weights().items())


def test_a_state_of_other_settings_is_not_resumed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    train(Policy.load(tiny_checkpoint), RL, state_dir=tmp_path / "rl")
    other = RL.model_copy(update={"beta": 0.2, "steps": 2})
    assert [step.step for step in train(Policy.load(tiny_checkpoint), other, state_dir=tmp_path / "rl")] == [0, 1]


def test_cases_that_do_not_fit_are_skipped(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    prompter = Prompter(policy.tokenizer, COMPACT, limits(200, 6))
    too_long = make_case(9, base="a" * 2000)
    schedule = schedule_prompts(inputs_of(policy, cases=[too_long, *CASES], prompter=prompter))
    assert [len(rows) for rows in schedule.prompts] == [RL.prompts_per_step] * RL.steps
    assert {row.case for rows in schedule.prompts for row in rows} == {1, 2, 3, 4}
    assert [row.shown for rows in schedule.prompts for row in rows] == [1] * 4 + [2] * 4
    assert sum(schedule.left_out) in (1, 2)  # once in each round: eight draws of four that fit
    longest = max(len(prompter.chat.ids(row.prompt)) for rows in schedule.prompts[:2] for row in rows)  # of one item
    tight = schedule_prompts(inputs_of(policy, prompter=replace(prompter, limits=limits(longest, 6))))
    assert [row.shown for rows in tight.prompts for row in rows] == [1] * 8


def test_the_step_records_the_skipped_prompts(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    prompter, too_long = Prompter(policy.tokenizer, COMPACT, limits(200, 6)), make_case(9, base="a" * 2000)
    inputs = inputs_of(policy, cases=[too_long, *CASES], prompter=prompter)
    schedule = schedule_prompts(inputs)
    steps = train_rl(inputs)
    assert [step.left_out for step in steps] == schedule.left_out and sum(schedule.left_out)


def test_one_prompt_that_fits_is_enough(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    prompter = Prompter(policy.tokenizer, COMPACT, limits(200, 6))
    too_long = [make_case(n, base="a" * 2000) for n in range(10, 15)]
    schedule = schedule_prompts(inputs_of(policy, cases=[*too_long, CASES[0]], prompter=prompter))
    assert {row.case for rows in schedule.prompts for row in rows} == {5}


def test_settings_that_cannot_be_trained_are_refused(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy.load(tiny_checkpoint)
    with pytest.raises(BadSetting, match="multiple of 1 processes times 3 rows"):
        train(policy, RL.model_copy(update={"micro_batch": 3}))
    with pytest.raises(BadSetting, match="needs a GPU"):
        train(policy, RL.model_copy(update={"rollouts": "vllm_colocate"}))
    with pytest.raises(CannotContinue, match="no prompt fits"):
        train_rl(inputs_of(policy, prompter=Prompter(policy.tokenizer, COMPACT, limits(4, 6))))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadSetting, match="trains in one process"):
        train(policy, RL.model_copy(update={"engine": "shared_prompt"}))


def test_a_reward_that_is_not_finite_stops_the_run(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.learn.trl_trainer.reward_of", lambda text, ended, case, domains: Reward(float("nan"), usable=True))
    with pytest.raises(Diverged):
        train(Policy.load(tiny_checkpoint), RL)
