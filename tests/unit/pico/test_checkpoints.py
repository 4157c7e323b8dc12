"""The shipped tiny checkpoints: size, safe formats and abilities. Also the tokenizer, documents and training that made them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2ForCausalLM

from pico.checkpoints import BASE, REFLECTOR, file_digests
from pico.documents import ANSWER, Document, base_document, reflector_document
from pico.make import export
from pico.probe import completer, draft_kept, generic_agreement, in_context_score
from pico.tokenizer import train_tokenizer, user_turn
from pico.training import Recipe, encode, new_model, pretrain
from schemas.rewriting import TAGS, Rewrite, parse
from traffic.world import DOMAINS, MOVIE_TAG, PRODUCT_RATING, TWEET_PARAPHRASE

MEGABYTE = 1_000_000
CHECKPOINTS = pytest.mark.parametrize("directory", [BASE, REFLECTOR], ids=["base", "reflector"])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads are slower for matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(directory: Path) -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    return AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def base() -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    return load(BASE)


@pytest.fixture(scope="module")
def reflector() -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    return load(REFLECTOR)


@CHECKPOINTS
def test_a_checkpoint_takes_at_most_two_megabytes(directory: Path) -> None:
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 2 * MEGABYTE


@CHECKPOINTS
def test_a_checkpoint_is_safetensors_and_plain_text_only(directory: Path) -> None:
    assert {path.suffix for path in directory.iterdir()} == {".safetensors", ".json", ".jinja", ".md"}


@CHECKPOINTS
def test_the_model_card_has_the_digests_of_the_files(directory: Path) -> None:
    card = (directory / "README.md").read_text()
    assert card.startswith("---\n")
    assert all(f"| {name} | `{digest}` |" in card for name, digest in file_digests(directory).items())


@CHECKPOINTS
def test_a_checkpoint_loads_as_float32_with_head_sizes_that_vllm_serves(directory: Path) -> None:
    model, tokenizer = load(directory)
    assert model.dtype == torch.float32
    assert model.config.hidden_size // model.config.num_attention_heads == 32
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 2048
    assert model.config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


@CHECKPOINTS
def test_tags_survive_a_decode_that_skips_special_tokens(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    completion = Rewrite("draft is Comedy!", "dark comedy").to_text()
    ids = tokenizer.encode(completion + "<|im_end|>")
    assert sum(token in TAGS for token in tokenizer.convert_ids_to_tokens(ids)) == len(TAGS)
    assert tokenizer.decode(ids, skip_special_tokens=True) == completion


@CHECKPOINTS
def test_documents_have_the_format_of_the_chat_template(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    message = [{"role": "user", "content": "tag : somebody wakes a dragon"}]
    assert tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True) == user_turn(message[0]["content"])


def test_a_saved_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    rng = random.Random(7)
    documents = ["".join(text for text, _ in reflector_document(rng)) for _ in range(200)]
    tokenizer = train_tokenizer(documents)
    export(new_model(tokenizer, Recipe(layers=1, steps=1)), tokenizer, tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)  # Qwen2Tokenizer, with its own pre-tokenizer
    assert [tokenizer.encode(text) for text in documents] == [reloaded.encode(text) for text in documents]


def test_any_text_survives_the_tokenizer(reflector: tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]) -> None:
    text = "Łódź 😀  two  blanks\n\tand < a & b > </x>"
    assert reflector[1].decode(reflector[1].encode(text)) == text


def test_the_base_answers_generically(base: tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]) -> None:
    agreement = generic_agreement(completer(*base, max_new_tokens=48), count=10)
    assert min(agreement[domain] for domain in DOMAINS) >= 0.9


def test_the_reflector_keeps_drafts_in_the_rewrite_form(reflector: tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]) -> None:
    kept = draft_kept(completer(*reflector), count=10)
    assert min(kept[domain] for domain in DOMAINS) >= 0.9


def test_the_reflector_reads_profiles(reflector: tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]) -> None:
    scores = in_context_score(completer(*reflector, max_new_tokens=12), count=12)
    assert scores[MOVIE_TAG] > 0.7 and scores[PRODUCT_RATING] > 0.9 and scores[TWEET_PARAPHRASE] > 0.9


@pytest.mark.parametrize("draw", [base_document, reflector_document])
def test_documents_are_split_where_the_tokenizer_splits(draw: Callable[[random.Random], Document]) -> None:
    tokenizer, rng = AutoTokenizer.from_pretrained(REFLECTOR), random.Random(4)
    for _ in range(100):
        document = draw(rng)
        assert encode(tokenizer, document)[0] == tokenizer.encode("".join(text for text, _ in document))


def test_nothing_teaches_the_untrained_reflector_to_change_a_draft() -> None:
    rng = random.Random(6)
    documents = ["".join(text for text, _ in reflector_document(rng)) for _ in range(400)]
    completions = [document.split("assistant\n")[1].removesuffix("<|im_end|>") for document in documents if "\ndraft : " in document]
    rewrites = [parse(completion) for completion in completions]
    assert len(rewrites) > 20
    assert all(rewrite is not None and rewrite.reasoning == f"draft is {rewrite.answer}" for rewrite in rewrites)


def test_every_document_has_tokens_with_full_weight() -> None:
    rng = random.Random(5)
    assert all(max(weight for _, weight in reflector_document(rng)) in (ANSWER, ANSWER * 0.25) for _ in range(200))


def test_pretraining_lowers_the_loss_and_is_repeatable() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE)

    def train() -> list[float]:
        recipe = Recipe(layers=1, steps=8, batch=8, seed=3)
        losses: list[float] = []
        pretrain(new_model(tokenizer, recipe), tokenizer, base_document, recipe, lambda _, loss: losses.append(loss))
        return losses

    first = train()
    assert first[-1] < first[0] - 0.5
    assert train() == pytest.approx(first, rel=1e-3)


def test_probes_cover_every_domain(base: tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]) -> None:
    assert list(generic_agreement(completer(*base, max_new_tokens=2), count=1)) == [*DOMAINS, "scholarly_title"]
