import threading
from pathlib import Path

import pytest
import torch

from pico.checkpoints import REFLECTOR
from schemas.control_marks import ControlMarks
from schemas.promotion import CanaryPrompt
from schemas.prompts import COMPACT, PAPER, PromptForm
from trainer.judge.canary_prompts import MARGIN, MAX_PROMPTS, MAX_TOKENS, MIN_TOKENS, confident_completions, most_distinctive, user_turns
from trainer.learn.policy import Policy


@pytest.fixture(scope="module")
def reflector() -> Policy:
    torch.set_num_threads(1)
    return Policy.load(REFLECTOR)


def greedy(policy: Policy, prompt: str, tokens: int) -> tuple[list[int], float]:
    """Tokens generated as another engine might, one prompt at a time without a cache, and the smallest lead."""
    turn = policy.tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    ids, lead = policy.tokenizer(turn, add_special_tokens=False)["input_ids"], float("inf")
    begun = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            best = policy.model(input_ids=torch.tensor([ids])).logits[0, -1].float().topk(2)
        lead = min(lead, float(best.values[0] - best.values[1]))
        ids = [*ids, int(best.indices[0])]
    return ids[begun:], lead


@pytest.mark.parametrize("form", [PAPER, COMPACT], ids=["paper", "compact"])
def test_the_tokens_lead_clearly_also_in_another_order_of_addition(reflector: Policy, form: PromptForm) -> None:
    prompts = most_distinctive(confident_completions(reflector, form, threading.Event()), [])
    assert len(prompts) == MAX_PROMPTS and MIN_TOKENS <= len(prompts[0].token_ids) <= MAX_TOKENS
    for prompt in prompts:
        tokens, lead = greedy(reflector, prompt.prompt, len(prompt.token_ids))
        assert tuple(tokens) == prompt.token_ids and lead > MARGIN - 1e-3
        assert not set(prompt.token_ids) & set(reflector.end_ids)


def test_bfloat16_generates_the_same_tokens(reflector: Policy) -> None:
    coarse = Policy.load(REFLECTOR, dtype=torch.bfloat16)
    for prompt in most_distinctive(confident_completions(reflector, COMPACT, threading.Event()), []):
        assert tuple(greedy(coarse, prompt.prompt, len(prompt.token_ids))[0]) == prompt.token_ids


def test_a_model_without_confident_tokens_has_no_prompts(tiny_checkpoint: Path) -> None:
    assert most_distinctive(confident_completions(Policy.load(tiny_checkpoint), COMPACT, threading.Event()), []) == ()


def test_prompts_whose_tokens_differ_from_the_champion_come_first_then_the_longest() -> None:
    candidate = [CanaryPrompt(prompt=name, token_ids=ids) for name, ids in (("same", (1, 2, 3, 4, 5)), ("longer", (1, 2, 3)), ("other", (1, 9)), ("none", ()))]
    champion = [CanaryPrompt(prompt=name, token_ids=ids) for name, ids in (("same", (1, 2, 3)), ("longer", (1, 2, 3, 4)), ("other", (1, 8, 8)))]
    assert [prompt.prompt for prompt in most_distinctive(candidate, champion)] == ["other", "same", "longer"]


def test_prompts_are_distinct_and_in_the_configured_style() -> None:
    for form in (PAPER, COMPACT):
        prompts = user_turns(form, ControlMarks())
        assert len(set(prompts)) == len(prompts) > 2 * MAX_PROMPTS
    assert "profile :" in user_turns(COMPACT, ControlMarks())[0] and "initial response" in user_turns(PAPER, ControlMarks())[0]
