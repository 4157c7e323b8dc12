"""Versions as adapters over one model in vLLM: each answers like its merged weights, beside the others and during swaps."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.checkpoints.verification import BadCheckpoint, verify_checkpoint
from infra.errors import BadSetting
from infra.settings import Settings
from infra.settings.models import EngineKind, ReflectionSettings
from schemas.responses import ModelVersion
from tests.support.tiny_model import make_checkpoint
from workers.serving.engines.engine import GenerationResult, SamplingParameters
from workers.serving.engines.factory import start_engine
from workers.serving.engines.lora import CONFIG, AdapterBase
from workers.serving.engines.serving_engine import ServingEngine

pytestmark = pytest.mark.timeout(400)

SAMPLING = SamplingParameters(max_new_tokens=16)
BASE, FIRST, SECOND = (ModelVersion(name="tiny", version=version, digest=version * 64) for version in "012")
PROMPTS = [f"a film about {'the sea ' * (i % 3)} number {i}" for i in range(6)]
Texts = dict[str, list[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two adapters over it."""
    folder = tmp_path_factory.mktemp("adapters")
    make_checkpoint(folder / "base", seed=1)
    for seed in (1, 2):
        _make_adapter(folder / "base", folder / f"adapter-{seed}", seed)
    return folder


def _make_adapter(base: Path, into: Path, seed: int) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.save_pretrained(into, save_embedding_layers=False)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / name, into / name)
    config = json.loads((into / CONFIG).read_text())
    (into / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": None, "auto_mapping": None}))


def _texts(folder: Path) -> Texts:
    """Greedy texts of the base and of each adapter merged into it, one at a time."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "base")
    texts: Texts = {}
    for version, adapter in (("0", None), ("1", "adapter-1"), ("2", "adapter-2")):
        model: Any = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        model = PeftModel.from_pretrained(model, folder / adapter).merge_and_unload().eval() if adapter else model.eval()
        texts[version] = []
        for prompt in PROMPTS:
            chat = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
            ids = tokenizer(chat, return_tensors="pt")
            out = model.generate(**ids, max_new_tokens=SAMPLING.max_new_tokens, do_sample=False)
            texts[version].append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).rstrip("\ufffd"))
    return texts


def _settings(folder: Path, kind: EngineKind = EngineKind.VLLM) -> Settings:
    return Settings(reflection=ReflectionSettings(engine=kind, adapters=True, checkpoint=folder / "base", max_model_len=256, concurrency=16, versions=2))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[ServingEngine]:
    started = start_engine(_settings(folder), folder / "base", BASE)
    yield started
    asyncio.run(started.close())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
async def test_adapters_answer_side_by_side_and_replace_each_other(engine: ServingEngine, folder: Path) -> None:
    texts = await asyncio.to_thread(_texts, folder)
    assert texts["0"] != texts["1"] != texts["2"]

    async def ask(version: str | None) -> tuple[str | None, list[str]]:
        results: list[GenerationResult] = await asyncio.gather(*[engine.generate(prompt, SAMPLING, version) for prompt in PROMPTS])
        assert len({generation.model.version for generation in results}) == 1
        return results[0].model.version, [generation.text.rstrip("\ufffd") for generation in results]

    await engine.load(folder / "adapter-1", FIRST)
    assert list(await asyncio.gather(ask(None), ask("1"))) == [("0", texts["0"]), ("1", texts["1"])]
    running = asyncio.create_task(ask("1"))
    await asyncio.sleep(0.05)
    await engine.swap(folder / "adapter-2", SECOND)
    assert [await running, await ask(None)] == [("1", texts["1"]), ("2", texts["2"])]
    await engine.swap(folder / "base", BASE)
    assert await ask(None) == ("0", texts["0"])


def test_only_the_base_and_adapters_over_it_are_served(folder: Path, tmp_path: Path) -> None:
    verify_checkpoint(folder / "adapter-1")
    base = AdapterBase(folder / "base")
    assert not base.misfits(folder / "base")
    assert not base.misfits(folder / "adapter-1")
    other = make_checkpoint(tmp_path / "other", seed=5)
    with pytest.raises(BadCheckpoint, match="full weights other than the base's"):
        start_engine(_settings(folder), other, FIRST)
    strange = Path(shutil.copytree(folder / "adapter-1", tmp_path / "strange"))
    (strange / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 4096}))
    assert base.misfits(strange) == ["adapter_config.json: r is 4096, not 1 to 64"]
    with pytest.raises(BadSetting, match="only vLLM"):
        start_engine(_settings(folder, EngineKind.TRANSFORMERS), folder / "base", BASE)
