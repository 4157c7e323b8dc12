from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.demo.checkpoint_scorer import CheckpointScorer
from bench.demo.mixed_versions import PromptAndAnswer, TraceResult, trace, trace_result
from schemas.contexts import HistoryItem, Source
from schemas.ids import derive
from schemas.prompts import PromptStyle, reflection_prompt
from tests.support.demo_report import NOON, query

SHIPPED = Path(__file__).parents[4] / "pico" / "checkpoints" / "reflector"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped reflector with its weights shaken: another version with the same tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("other")
    model = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.std() * 0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(SHIPPED).save_pretrained(folder)
    return folder


def completion() -> PromptAndAnswer:
    """What the shipped reflector answers, by transformers' own generation."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    item = HistoryItem(
        interaction_id=derive("item"),
        content="a woman hunts armed robbers lightly",
        response="violence",
        occurred_at=NOON,
        score=1,
        source=Source(topic="interactions", partition=0, offset=0),
    )
    asked_about = query(1).message.model_copy(update={"text": "a man fights a hired killer sharply"})
    prompt = reflection_prompt(asked_about, "action", [item], PromptStyle.COMPACT)
    tokenizer: Any = AutoTokenizer.from_pretrained(SHIPPED)
    model: Any = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(asked, add_special_tokens=False, return_tensors="pt")["input_ids"]
    written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=80, do_sample=False)
    return PromptAndAnswer(prompt, str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)))


def test_a_checkpoint_tells_its_own_output_from_another_s(other: Path) -> None:
    written = completion()
    assert written.text.endswith("</personalized>")
    one, two = CheckpointScorer(SHIPPED), CheckpointScorer(other)
    assert trace_result(one.gaps(written), None) is TraceResult.SAME
    assert trace([("1", written)], {"1": one, "2": two}) == {TraceResult.SAME: 1}
    assert trace([("2", written)], {"1": one, "2": two}) == {TraceResult.MIXED: 1}
    assert trace([("2", written)], {"2": two}) == {TraceResult.UNEXPLAINED: 1}
    assert trace([("3", written)], {"1": one}) == {TraceResult.UNEXPLAINED: 1}
