from __future__ import annotations

from pathlib import Path

import pytest

from bench.demo.checkpoint import Checkpoint
from bench.demo.mixing import Completion, Origin, check, origin
from tests.tiny_model import make_checkpoint

PROMPT = "a film about the sea"


def greedy(folder: Path, tokens: int = 12) -> str:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    output = model.generate(**ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return str(tokenizer.decode(output[0, ids["input_ids"].shape[1] :]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_checkpoint_knows_its_own_words_from_another_s(tmp_path: Path) -> None:
    folders = [make_checkpoint(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    one, two = map(Checkpoint, folders)
    own = next((text for tokens in range(12, 1, -1) if round_trips(folders[0], text := greedy(folders[0], tokens))), None)
    if own is None:
        pytest.skip("this random model writes no text that its tokenizer reads back the same")
    completion = Completion(PROMPT, own)
    assert origin(one.gaps(completion), None) is Origin.SAME
    assert max(two.gaps(completion)) > 0
    assert check([("1", completion)], {"1": one, "2": two}) == {Origin.SAME: 1}
    assert check([("2", completion)], {"1": one, "2": two}) == {Origin.MIXED: 1}


def round_trips(folder: Path, text: str) -> bool:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return text == tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) and "\ufffd" not in text
