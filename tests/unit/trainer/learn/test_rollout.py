import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.interruption import Interrupted
from trainer.learn import rollout
from trainer.learn.policy import Policy
from trainer.learn.rollout import SamplingOptions, generate, log_probabilities
from trainer.learn.shared_prompt import ATTENTION, SharedPrompt


@pytest.fixture(scope="module")
def policy(tiny_checkpoint: Path) -> Policy:
    return Policy.load(tiny_checkpoint)


def prompts_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 200, (length,), generator=generator).tolist() for length in lengths]


def test_greedy_completions_equal_those_of_transformers(policy: Policy) -> None:
    prompts = prompts_of(3, 40, 17)
    ours = generate(policy, prompts, [8] * len(prompts), 1, SamplingOptions(), threading.Event(), rows=2)
    policy.model.set_attn_implementation("sdpa")
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        out = policy.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=policy.pad_id)
        assert completion.token_ids == out[0, len(prompt) :].tolist()
    policy.model.set_attn_implementation(ATTENTION)


@pytest.mark.parametrize(("rows", "kept_tokens"), [(256, 100), (3, 10**6), (1, 1)])
def test_batches_are_bounded_and_change_no_completion(policy: Policy, monkeypatch: pytest.MonkeyPatch, rows: int, kept_tokens: int) -> None:
    prompts = prompts_of(3, 40, 17, 5, 21)
    whole = generate(policy, prompts, [8] * len(prompts), 1, SamplingOptions(), threading.Event())
    sizes: list[tuple[int, int]] = []
    decode = rollout._decode

    def recorded(policy: Policy, chosen: Sequence[list[int]], *rest: Any) -> Any:
        sizes.append((len(chosen), max(map(len, chosen))))
        return decode(policy, chosen, *rest)

    monkeypatch.setattr(rollout, "_decode", recorded)
    monkeypatch.setattr(rollout, "KEPT_BYTES", kept_tokens * rollout.bytes_per_token(policy.model))
    divided = generate(policy, prompts, [8] * len(prompts), 1, SamplingOptions(), threading.Event(), rows)
    assert [group[0].token_ids for group in divided] == [group[0].token_ids for group in whole]
    assert sum(count for count, _ in sizes) == 5 and len(sizes) > 1
    assert all(count == 1 or (count <= rows and count * (longest + 8) <= kept_tokens) for count, longest in sizes)


def test_log_probabilities_equal_those_of_each_row_alone(policy: Policy) -> None:
    prompts = prompts_of(5, 31)
    completions = [prompts_of(4, 1, 7), prompts_of(2, 6, 3)]
    logp, mask, entropy = log_probabilities(policy, prompts, completions)
    assert mask.sum(-1).tolist() == [[4, 1, 7], [2, 6, 3]] and float(entropy) > 0
    policy.model.set_attn_implementation("sdpa")
    for number, prompt in enumerate(prompts):
        for index, completion in enumerate(completions[number]):
            logits = policy.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
            alone = torch.log_softmax(logits, -1).gather(1, torch.tensor(completion)[:, None])[:, 0]
            assert torch.allclose(logp[number, index, : len(completion)], alone, atol=1e-5)
            assert (logp[number, index, len(completion) :] == 0).all()
    policy.model.set_attn_implementation(ATTENTION)


def test_sampling_stays_inside_the_nucleus_and_candidates_differ(policy: Policy) -> None:
    torch.manual_seed(0)
    group = generate(policy, prompts_of(9), [1], 64, SamplingOptions(1.0, 0.05), threading.Event())[0]
    policy.model.set_attn_implementation("sdpa")
    probabilities = torch.softmax(policy.model(torch.tensor(prompts_of(9))).logits[0, -1], -1).sort(descending=True)
    policy.model.set_attn_implementation(ATTENTION)
    inside = int((probabilities.values.cumsum(0) - probabilities.values <= 0.05).sum())
    drawn = {completion.token_ids[0] for completion in group}
    assert drawn <= set(probabilities.indices[:inside].tolist()) and len(drawn) > 1


def test_a_completion_ends_with_its_end_token_or_is_cut_off(policy: Policy) -> None:
    torch.manual_seed(0)
    ends = (policy.end_ids[0], 5, 6, 7, 8, 9, 10, 11)
    early_ending = Policy(policy.model, policy.tokenizer, policy.origin, ends, policy.pad_id)
    for completion in generate(early_ending, prompts_of(4), [12], 64, SamplingOptions(1.0, 1.0), threading.Event())[0]:
        assert completion.ended == (completion.token_ids[-1] in ends) and (completion.ended or len(completion.token_ids) == 12)
        assert not set(completion.token_ids[:-1]) & set(ends)


def test_each_prompt_has_its_own_limit(policy: Policy) -> None:
    prompts, limits = prompts_of(4, 9, 5), [3, 8, 1]
    whole = generate(policy, prompts, [8] * 3, 1, SamplingOptions(), threading.Event())
    limited = generate(policy, prompts, limits, 1, SamplingOptions(), threading.Event())
    assert all(len(completion.token_ids) == 8 for (completion,) in whole)  # none ends by itself
    for (long,), (short,), limit in zip(whole, limited, limits, strict=True):
        assert short.token_ids == long.token_ids[:limit] and not short.ended
        assert short.log_probabilities == pytest.approx(long.log_probabilities[:limit], abs=1e-4)


def test_rows_that_ended_are_no_longer_decoded_and_the_others_do_not_change(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temperature is above 1 and the nucleus below 1, so the recorded log-probabilities must not be those of the sampling distribution."""
    ends = (policy.end_ids[0], *range(3, 20))
    early_ending = Policy(policy.model, policy.tokenizer, policy.origin, ends, policy.pad_id)
    prompts, decoded = prompts_of(30, 4, 17), []
    continued = SharedPrompt.continued

    def recorded(prompt: SharedPrompt, model: Any, ids_BT: torch.Tensor, offset: int = 0) -> torch.Tensor:
        decoded.append(ids_BT.shape[0])
        return continued(prompt, model, ids_BT, offset)

    monkeypatch.setattr(SharedPrompt, "continued", recorded)
    torch.manual_seed(0)
    groups = generate(early_ending, prompts, [40] * len(prompts), 8, SamplingOptions(1.5, 0.95), threading.Event())
    monkeypatch.undo()
    lengths = [len(completion.token_ids) for group in groups for completion in group]
    assert min(lengths) < max(lengths) / 4 and len(decoded) == max(lengths) - 1
    assert decoded == sorted(decoded, reverse=True) and decoded[0] == 24 and decoded[-1] <= 8
    with torch.no_grad():
        logp_PGT, mask_PGT, _ = log_probabilities(policy, prompts, [[completion.token_ids for completion in group] for group in groups])
    for logp_GT, mask_GT, group in zip(logp_PGT, mask_PGT, groups, strict=True):
        for logp_T, mask_T, completion in zip(logp_GT, mask_GT, group, strict=True):
            assert logp_T[mask_T].tolist() == pytest.approx(completion.log_probabilities, abs=1e-4)


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        ([[0, 0, 0, 0], [1, 0, 0, 0]], None),
        ([[0, 1, 0, 0], [1, 0, 0, 0]], ([0, 1], [0, 2, 3, 5, 6, 7])),
        ([[0, 1, 0, 1], [1, 1, 1, 0]], ([0, 1], [0, 2, 7, 4])),
        ([[1, 1, 1, 1], [1, 1, 1, 0]], ([1], [7])),
    ],
)
def test_a_quarter_of_the_rows_must_end_before_rows_are_dropped(done: list[list[int]], expected: Any) -> None:
    kept = rollout.rows_to_continue(torch.tensor(done, dtype=torch.bool))
    assert (kept and tuple(values.tolist() for values in kept)) == expected


def test_a_stop_interrupts_between_two_tokens(policy: Policy) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        generate(policy, prompts_of(4), [4], 1, SamplingOptions(), stop)
