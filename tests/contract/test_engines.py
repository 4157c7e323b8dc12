"""The contract of all engines: each greedy text is the stamped version's own, also during swaps under load."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from infra.checkpoints.verification import BadCheckpoint
from infra.settings import Settings
from infra.settings.models import Dtype, EngineKind, ReflectionSettings
from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from tests.support.tiny_model import make_checkpoint
from workers.serving.engines.engine import EngineDied, FinishReason, GenerationFailed, GenerationResult, SamplingParameters, SwapFailed
from workers.serving.engines.factory import start_engine
from workers.serving.engines.serving_engine import ServingEngine

pytestmark = pytest.mark.timeout(400)

VLLM_MISSING = importlib.util.find_spec("vllm") is None
ON_VLLM = [pytest.mark.slow, pytest.mark.skipif(VLLM_MISSING, reason="vLLM is not installed")]
#: Engine and number of version slots.
KINDS = [(EngineKind.TRANSFORMERS, 1), (EngineKind.TRANSFORMERS, 2), pytest.param((EngineKind.VLLM, 2), marks=ON_VLLM)]
SAMPLING = SamplingParameters(max_new_tokens=24)
FIRST, SECOND = (ModelVersion(name="tiny", version=version, digest=version * 64) for version in "12")
CANDIDATES = [f"tag : a film about {'the sea ' * (i % 5)} number {i} => draft : action" for i in range(24)]
#: Rounding decides between tokens if their logits differ by less than this share of the logits' size.
MARGIN = 2e-3


@dataclass(frozen=True)
class Models:
    """Two versions of one architecture, one of another, and each version's text for every prompt that does not depend on rounding."""

    first: Path
    second: Path
    misfit: Path
    texts: dict[str, dict[str, str]]
    tokens: dict[str, dict[str, tuple[int, ...]]]

    def canary_prompts(self, version: str) -> list[CanaryPrompt]:
        return [CanaryPrompt(prompt=prompt, token_ids=self.tokens[version][prompt]) for prompt in self.prompts[:3]]

    @property
    def prompts(self) -> list[str]:
        return list(self.texts["1"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    first, second = make_checkpoint(folder / "first", seed=1), make_checkpoint(folder / "second", seed=2)
    misfit = make_checkpoint(folder / "misfit", seed=3, layers=3)
    by_version = {"1": _references(first), "2": _references(second)}
    prompts = [prompt for prompt in CANDIDATES if prompt in by_version["1"] and prompt in by_version["2"]]
    assert len(prompts) >= 8
    texts = {version: {prompt: reference[prompt][0] for prompt in prompts} for version, reference in by_version.items()}
    tokens = {version: {prompt: reference[prompt][1] for prompt in prompts} for version, reference in by_version.items()}
    return Models(first, second, misfit, texts, tokens)


def _references(checkpoint: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Greedy texts and tokens one prompt at a time, without padding or batches; without prompts whose text depends on rounding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)  # two threads on two busy cores wait for each other: 50 times slower
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    texts = {}
    for prompt in CANDIDATES:
        chat = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(chat, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=SAMPLING.max_new_tokens, do_sample=False, output_scores=True, return_dict_in_generate=True)
        best = torch.stack(out.scores).topk(2).values
        if ((best[..., 0] - best[..., 1]) / torch.stack(out.scores).abs().mean()).min() > MARGIN:
            generated = out.sequences[0, ids["input_ids"].shape[1] :]
            texts[prompt] = _complete(tokenizer.decode(generated, skip_special_tokens=True)), tuple(generated.tolist())
    return texts


@pytest.fixture(scope="module", params=KINDS)
def started(request: pytest.FixtureRequest, models: Models) -> Iterator[ServingEngine]:
    kind, versions = request.param
    settings = Settings(reflection=ReflectionSettings(engine=kind, max_model_len=512, concurrency=32, timeout_s=60, versions=versions))
    engine = start_engine(settings, models.first, FIRST, canary_prompts=models.canary_prompts("1"))
    yield engine
    asyncio.run(engine.close())


@pytest_asyncio.fixture
async def engine(started: ServingEngine, models: Models) -> AsyncIterator[ServingEngine]:
    yield started
    await started.swap(models.first, FIRST, models.canary_prompts("1"))


def _complete(text: str) -> str:
    """Without an incomplete last character: vLLM omits it, transformers writes a replacement character."""
    return text.rstrip("\ufffd")


async def _ask(engine: ServingEngine, prompts: list[str], version: str | None = None) -> list[GenerationResult]:
    return await asyncio.gather(*[engine.generate(prompt, SAMPLING, version) for prompt in prompts])


async def test_greedy_text_equals_the_models_own(engine: ServingEngine, models: Models) -> None:
    prompt = models.prompts[0]
    answer = await engine.generate(prompt, SAMPLING)
    assert (_complete(answer.text), answer.model, answer.finish_reason) == (models.texts["1"][prompt], FIRST, FinishReason.LENGTH)
    assert (answer.prompt_tokens, answer.completion_tokens) == (engine.count_tokens(prompt), SAMPLING.max_new_tokens)


async def test_thirty_two_concurrent_requests_get_the_text_that_each_gets_alone(engine: ServingEngine, models: Models) -> None:
    prompts = (models.prompts * 32)[:32]
    answers = await _ask(engine, prompts)
    assert [_complete(answer.text) for answer in answers] == [models.texts["1"][prompt] for prompt in prompts]


async def test_a_stop_string_ends_the_text_and_stays_in_it(engine: ServingEngine, models: Models) -> None:
    candidates = ((prompt, text, re.search("[ -~]", text[2:-8])) for prompt, text in models.texts["1"].items())
    prompt, text, stop = next((prompt, text, match.group()) for prompt, text, match in candidates if match)
    answer = await engine.generate(prompt, SamplingParameters(max_new_tokens=24, stop=(stop,)))
    assert answer.text == text[: text.index(stop) + len(stop)]
    assert answer.finish_reason is FinishReason.STOP
    assert answer.completion_tokens < 24


async def test_a_swap_under_load_drops_nothing_and_mixes_nothing(engine: ServingEngine, models: Models) -> None:
    results: list[tuple[str, GenerationResult]] = []
    swapped = asyncio.Event()

    async def ask_on(prompt: str) -> None:
        """Keeps requests in flight until the swap is over, however fast the engine is."""
        while not swapped.is_set():
            results.append((prompt, await engine.generate(prompt, SAMPLING)))

    requests = [asyncio.create_task(ask_on(prompt)) for prompt in (models.prompts * 48)[:48]]
    try:
        before = await _ask(engine, models.prompts[:1])  # the first requests of all tasks come before this one
        swapping = asyncio.create_task(engine.swap(models.second, SECOND))
        await asyncio.sleep(0)
        during = asyncio.gather(*[engine.generate(prompt, SAMPLING) for prompt in (models.prompts * 16)[:16]])
        swap = await swapping
    finally:
        swapped.set()
        await asyncio.gather(*requests)
    after = await _ask(engine, models.prompts[:8])
    results += zip(models.prompts[:1] + (models.prompts * 16)[:16] + models.prompts[:8], [*before, *await during, *after], strict=True)
    assert [_complete(answer.text) for _, answer in results] == [models.texts[answer.model.version][prompt] for prompt, answer in results]
    assert swap.dropped == 0 < swap.in_flight
    assert {answer.model for _, answer in results} == {FIRST, SECOND}
    assert {answer.model for answer in before} == {FIRST} and {answer.model for answer in after} == {SECOND}


async def test_the_new_weights_answer_a_prompt_that_was_cached_before_the_swap(engine: ServingEngine, models: Models) -> None:
    await _ask(engine, models.prompts)
    await engine.swap(models.second, SECOND)
    answers = await _ask(engine, models.prompts)
    assert [_complete(answer.text) for answer in answers] == list(models.texts["2"].values()) != list(models.texts["1"].values())


async def test_two_loaded_versions_each_answer_with_their_own_text(engine: ServingEngine, models: Models) -> None:
    if engine.next_evicted == FIRST.version:
        pytest.skip("only one version slot")
    before = [asyncio.create_task(engine.generate(prompt, SAMPLING)) for prompt in models.prompts]
    await engine.load(models.second, SECOND, models.canary_prompts("2"))
    by_second, by_champion = await asyncio.gather(_ask(engine, models.prompts, SECOND.version), _ask(engine, models.prompts))
    assert [_complete(answer.text) for answer in by_second] == list(models.texts["2"].values())
    assert [_complete(answer.text) for answer in [*await asyncio.gather(*before), *by_champion]] == list(models.texts["1"].values()) * 2
    assert {answer.model for answer in by_second} == {SECOND}


async def test_a_version_that_fails_a_canary_prompt_does_not_serve(engine: ServingEngine, models: Models) -> None:
    right, wrong = models.canary_prompts("2"), models.canary_prompts("1")
    with pytest.raises(SwapFailed, match=r"canary prompt 2 of 2: token \d+ is not the registered one"):
        await engine.swap(models.second, SECOND, [right[0], wrong[1]])
    answers = await _ask(engine, models.prompts)
    assert [_complete(answer.text) for answer in answers] == list(models.texts["1"].values())
    assert (await engine.swap(models.second, SECOND, right)).check_ms > 0


async def test_another_architecture_is_refused_and_the_old_version_keeps_serving(engine: ServingEngine, models: Models) -> None:
    with pytest.raises(BadCheckpoint, match="num_hidden_layers differs"):
        await engine.swap(models.misfit, SECOND)
    answer = await engine.generate(models.prompts[0], SAMPLING)
    assert (_complete(answer.text), answer.model) == (models.texts["1"][models.prompts[0]], FIRST)


async def test_after_a_failed_load_the_old_weights_serve(engine: ServingEngine, models: Models, tmp_path: Path) -> None:
    broken = make_checkpoint(tmp_path / "broken", seed=4)
    weights = broken / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(SwapFailed):
        await engine.swap(broken, SECOND)
    for checkpoint, model in ((models.first, FIRST), (models.second, SECOND)):
        await engine.swap(checkpoint, model, models.canary_prompts(model.version))
        answers = await _ask(engine, models.prompts)
        assert [_complete(answer.text) for answer in answers] == list(models.texts[model.version].values())


async def test_cancelled_requests_free_their_capacity(engine: ServingEngine, models: Models) -> None:
    for _ in range(3):
        tasks = [asyncio.create_task(engine.generate(prompt, SAMPLING)) for prompt in (models.prompts * 32)[:32]]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
    answer = await engine.generate(models.prompts[0], SAMPLING)
    assert _complete(answer.text) == models.texts["1"][models.prompts[0]]


async def test_a_prompt_beyond_the_context_fails_alone(engine: ServingEngine, models: Models) -> None:
    long, fine = await asyncio.gather(engine.generate("sea " * 600, SAMPLING), engine.generate(models.prompts[0], SAMPLING), return_exceptions=True)
    assert isinstance(long, GenerationFailed)
    assert isinstance(fine, GenerationResult)


def test_a_checkpoint_that_does_not_load_at_start_raises_engine_died(models: Models, tmp_path: Path) -> None:
    broken = make_checkpoint(tmp_path / "broken", seed=4)
    (broken / "model.safetensors").write_bytes(b"")
    with pytest.raises(EngineDied, match="did not start"):
        start_engine(Settings(reflection=ReflectionSettings(engine=EngineKind.TRANSFORMERS)), broken, FIRST)


@pytest.mark.slow
@pytest.mark.skipif(VLLM_MISSING, reason="vLLM is not installed")
async def test_a_version_that_is_loaded_in_bfloat16_answers_like_one_that_was_started(models: Models) -> None:
    """vLLM packs weights into copies when it loads them, by other kernels than in float32. A copy of the old weights would answer with another text."""
    config = ReflectionSettings(engine=EngineKind.VLLM, dtype=Dtype.BFLOAT16, max_model_len=512, concurrency=1, timeout_s=60, versions=1)

    async def texts(engine: ServingEngine) -> list[str]:
        """One at a time: in bfloat16 a batch rounds otherwise than a single prompt."""
        return [(await engine.generate(prompt, SAMPLING)).text for prompt in models.prompts]

    reloaded = await asyncio.to_thread(start_engine, Settings(reflection=config), models.first, FIRST)
    of_first = await texts(reloaded)
    await reloaded.swap(models.second, SECOND)
    of_second = await texts(reloaded)
    await reloaded.close()
    fresh = await asyncio.to_thread(start_engine, Settings(reflection=config), models.second, SECOND)
    assert of_second == await texts(fresh) != of_first
    await fresh.close()
