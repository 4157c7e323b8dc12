"""Small tokenizers with the control tokens, chat templates and normalisers of well-known model families."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_TEXTS = ["a film about the sea is what the user system and assistant said", "[INST] x [/INST] <s> </s> <|im_start|> eot_id"]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_MISTRAL = "{{ bos_token }}{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}"
_GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{{ '<｜User｜>' + m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)


def qwen() -> Any:
    return _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], CHATML, eos_token="<|im_end|>", pad_token="<|endoftext|>", plain=["<|fim_prefix|>"])


def llama_3() -> Any:
    reserved = [f"<|reserved_special_token_{number}|>" for number in range(250)]
    control = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", *reserved]
    return _byte_level(control, _LLAMA_3, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def deepseek() -> Any:
    bos, eos = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    return _byte_level([bos, eos, "<｜User｜>", "<｜Assistant｜>"], _DEEPSEEK, bos_token=bos, eos_token=eos)


def mistral() -> Any:
    """Role marks are control tokens, as since Mistral's third tokenizer."""
    return _sentencepiece(["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"], _MISTRAL)


def llama_2() -> Any:
    """Role marks are plain text, which only the template shows. Control tokens are matched after the normaliser, as in its first release."""
    return _sentencepiece(["<unk>", "<s>", "</s>"], _MISTRAL, normalized=True)


def gemma() -> Any:
    return _sentencepiece(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"], _GEMMA, bos_token="<bos>", eos_token="<eos>")


def normalising() -> Any:
    """Lower case, NFKC and no accents before control tokens are matched, which also take the blanks around them."""
    from tokenizers import normalizers

    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _byte_level(control, CHATML, eos_token="<|im_end|>", pad_token="<|endoftext|>", normalized=True, lstrip=True, rstrip=True)
    unicode = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Nmt(), normalizers.Lowercase()]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(unicode)
    return tokenizer


FAMILIES = {make.__name__: make for make in (qwen, llama_3, deepseek, mistral, llama_2, gemma, normalising)}


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """What the tokenizer itself calls special, by id; unknown characters are not a control token."""
    unknown = tokenizer("\ue000", add_special_tokens=False)["input_ids"]
    return {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special and number not in unknown}


def _byte_level(control: Sequence[str], template: str, plain: Sequence[str] = (), normalized: bool = False, **named: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(_TEXTS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))
    strip = {name: named.pop(name) for name in ("lstrip", "rstrip") if name in named}
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=normalized, **strip) for token in control])
    bpe.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    return _with_template(bpe, template, **named)


def _sentencepiece(control: Sequence[str], template: str, normalized: bool = False, bos_token: str = "<s>", eos_token: str = "</s>") -> Any:
    """BPE over `▁` with byte fallback, as converted from a SentencePiece model."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.train_from_iterator(_TEXTS, trainers.BpeTrainer(vocab_size=80, show_progress=False))
    content = json.loads(bpe.to_str())
    pieces = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *content["model"]["vocab"]]
    content["model"]["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    bpe = Tokenizer.from_str(json.dumps(content))
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=normalized) for token in control])
    return _with_template(bpe, template, bos_token=bos_token, eos_token=eos_token, unk_token="<unk>")


def _with_template(bpe: Any, template: str, **named: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = template
    return tokenizer
