from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import BadSetting
from infra.settings import load
from infra.settings.stream import EmbedderSettings
from schemas.topics import INTERACTIONS
from streams.embedding import model
from streams.embedding.embedder import Matrix
from streams.embedding.local import STEP_CHARS, LocalEmbedder, steps_of
from streams.embedding.model import CALL_CHARS, READ_CHARS, similar_lengths
from streams.history.processor import HistoryProcessor
from streams.index.tenant_filter import Scope
from streams.service import open_index
from tests.support.streams_fakes import NOON, consumed_record, interaction
from tests.support.tiny_embedder import TEXTS, make_contriever


@given(st.lists(st.integers(0, 3_000).map("x".__mul__), max_size=60), st.integers(1, 16))
def test_background_steps_keep_order_and_stay_short(texts: list[str], batch_size: int) -> None:
    steps = [list(step) for step in steps_of(texts, batch_size)]
    assert [text for step in steps for text in step] == texts
    for step in steps:
        assert 1 <= len(step) <= batch_size
        assert len(step) == 1 or sum(min(len(text), READ_CHARS) for text in step) <= STEP_CHARS


@given(st.lists(st.integers(0, READ_CHARS), max_size=40))
def test_texts_share_a_call_unless_padding_costs_more_than_another_call(chars: list[int]) -> None:
    calls = [call for call in similar_lengths(chars) if call]
    assert sorted(n for call in calls for n in call) == list(range(len(chars)))
    for call in calls:
        lengths = sorted(chars[n] for n in call)
        assert all((lengths[-1] - length) * n <= CALL_CHARS for n, length in enumerate(lengths, start=1))
    padded = sum(len(call) * max(chars[n] for n in call) for call in calls) + len(calls) * CALL_CHARS
    assert not chars or padded <= len(chars) * max(chars) + CALL_CHARS


@pytest.fixture(scope="module")
def contriever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_contriever(tmp_path_factory.mktemp("contriever"))


def by_hand(checkpoint: Path, pooling: str, texts: Sequence[str]) -> Matrix:
    """Vectors as Contriever's own code computes them, or those of the first token. Not normalised."""
    from transformers import AutoModel, AutoTokenizer

    batch = AutoTokenizer.from_pretrained(checkpoint)(list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        tokens_BTD = AutoModel.from_pretrained(checkpoint).eval()(**batch).last_hidden_state
    if pooling == "cls":
        return np.asarray(tokens_BTD[:, 0], dtype=np.float32)
    mask_BT = batch["attention_mask"]
    masked_BTD = tokens_BTD.masked_fill(~mask_BT[..., None].bool(), 0.0)
    return np.asarray(masked_BTD.sum(dim=1) / mask_BT.sum(dim=1)[..., None], dtype=np.float32)


async def embedded(**settings: Any) -> tuple[Matrix, str]:
    """The rows of TEXTS, and the embedder's name."""
    embedder = LocalEmbedder(EmbedderSettings(**settings))
    try:
        return await embedder.embed(TEXTS, urgent=True), embedder.name
    finally:
        embedder.close()


@pytest.mark.parametrize(("setting", "pooling"), [("auto", "mean"), ("mean", "mean"), ("cls", "cls")])
async def test_pooling_and_dot_product_equal_a_computation_by_hand(contriever: Path, setting: str, pooling: str) -> None:
    rows, _ = await embedded(model=str(contriever), pooling=setting, similarity="dot")
    expected = by_hand(contriever, pooling, TEXTS)
    assert not np.allclose(np.linalg.norm(expected, axis=1), 1, atol=0.1), "the vectors keep their length"
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    np.testing.assert_allclose(rows @ rows.T, expected @ expected.T, atol=1e-4)


async def test_cosine_is_the_same_pooling_with_rows_of_length_1(contriever: Path) -> None:
    rows, _ = await embedded(model=str(contriever), pooling="mean")
    expected = by_hand(contriever, "mean", TEXTS)
    np.testing.assert_allclose(rows, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


async def test_the_name_of_an_embedder_tells_its_pooling(contriever: Path) -> None:
    names = [(await embedded(model=str(contriever), pooling=pooling))[1] for pooling in ("auto", "mean", "cls")]
    assert names == [str(contriever), f"{contriever}, mean pooling", f"{contriever}, cls pooling"]


async def test_bfloat16_is_another_embedder_with_nearly_equal_vectors(contriever: Path) -> None:
    rows, name = await embedded(model=str(contriever), dtype="bfloat16")
    assert name == f"{contriever}, bfloat16"
    np.testing.assert_allclose(rows, (await embedded(model=str(contriever)))[0], atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("native", "suffix"), [(True, ", bfloat16"), (False, "")])
async def test_auto_takes_bfloat16_where_the_processor_multiplies_it(contriever: Path, monkeypatch: pytest.MonkeyPatch, native: bool, suffix: str) -> None:
    monkeypatch.setattr(model, "processor_has_bfloat16", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (await embedded(model=str(contriever), dtype="auto"))[1] == f"{contriever}{suffix}"


async def test_equal_texts_are_embedded_once(contriever: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = LocalEmbedder(EmbedderSettings(model=str(contriever)))
    encode, calls = embedder._model.encode, list[Sequence[str]]()

    def recorded(texts: Sequence[str]) -> Matrix:
        calls.append(texts)
        return encode(texts)

    monkeypatch.setattr(embedder._model, "encode", recorded)
    with closing(embedder):
        rows = await embedder.embed([*TEXTS, *TEXTS[::-1]])
    assert sorted(text for call in calls for text in call) == sorted(TEXTS)
    np.testing.assert_array_equal(rows[: len(TEXTS)], rows[len(TEXTS) :][::-1])


async def test_the_index_searches_by_the_dot_product_of_the_settings(contriever: Path, tmp_path: Path) -> None:
    settings = load(embedder={"model": str(contriever), "similarity": "dot"}, stack={"dir": tmp_path}, kafka={"bootstrap_servers": "127.0.0.1:1"})
    history = [interaction(text, content="").model_copy(update={"response": text}) for text in TEXTS]
    embedder = LocalEmbedder(settings.embedder)
    index = await open_index(settings, embedder)
    try:
        processor = HistoryProcessor(embedder, index, batch=64)
        await processor.handle([consumed_record(INTERACTIONS.name, each, offset=n) for n, each in enumerate(history)])
        (vector,) = await embedder.embed(["the sea"], urgent=True)
        items = await index.search(Scope("acme", "alice"), vector, NOON + timedelta(days=1), "movie_tag", len(TEXTS))
    finally:
        embedder.close()
        await index.close()
    scores = by_hand(contriever, "mean", TEXTS) @ by_hand(contriever, "mean", ["the sea"])[0]
    assert [item.response for item in items] == [TEXTS[n] for n in np.argsort(-scores)]
    np.testing.assert_allclose([item.score for item in items], np.sort(scores)[::-1], atol=1e-4)


async def test_a_pooling_that_cannot_be_set_is_refused_by_name(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import WordEmbeddings
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    words = WordEmbeddings(WhitespaceTokenizer(["sea"]), np.ones((1, 4), dtype=np.float32))
    SentenceTransformer(modules=[words]).save_pretrained(str(tmp_path))
    with pytest.raises(BadSetting, match=r"embedder.pooling=cls: .* has no pooling that could be set"):
        LocalEmbedder(EmbedderSettings(model=str(tmp_path), pooling="cls"))


async def test_weights_that_are_only_there_as_pickles_are_refused_by_name(contriever: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    copy = tmp_path / "pickled"
    shutil.copytree(contriever, copy)
    (weights,) = copy.rglob("*.safetensors")
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    LocalEmbedder(EmbedderSettings(model=str(copy))).close()  # the safetensors beside it are read
    weights.unlink()
    with pytest.raises(BadSetting, match=r"pytorch_model\.bin: weights as pickles are not loaded"):
        LocalEmbedder(EmbedderSettings(model=str(copy)))
