"""Pairs of texts as input of an encoder."""

from pathlib import Path
from typing import Any

import pytest

from infra.errors import BadSetting
from infra.hydra.encoder import load_encoder
from infra.hydra.pairs import Pair, PairEncoder, reranked_text
from infra.settings.hydra import ItemText
from tests.support.tiny_encoder import Item, make_encoder, settings_for


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_encoder(settings_for(make_encoder(tmp_path_factory.mktemp("encoder")))).tokenizer


def tokens(tokenizer: Any, pair: Pair, max_length: int = 48) -> list[str]:
    words: list[str] = tokenizer.convert_ids_to_tokens(PairEncoder(tokenizer, max_length)([pair])["input_ids"][0].tolist())
    return words


def test_a_pair_has_the_tokenizers_own_marks(tokenizer: Any) -> None:
    assert tokens(tokenizer, Pair("a film", "the sea")) == ["[CLS]", "a", "film", "[SEP]", "the", "sea", "[SEP]"]


def test_a_mark_in_a_text_stays_text(tokenizer: Any) -> None:
    assert tokens(tokenizer, Pair("a [SEP] film", "the [CLS]")).count("[SEP]") == 2
    assert tokens(tokenizer, Pair("a [SEP] film", "the [CLS]")).count("[CLS]") == 1


def test_a_long_query_does_not_cut_off_a_short_candidate(tokenizer: Any) -> None:
    assert tokens(tokenizer, Pair("film " * 50, "the sea"), max_length=10)[-3:] == ["the", "sea", "[SEP]"]
    assert len(tokens(tokenizer, Pair("film " * 50, "sea " * 50), max_length=10)) == 10


def test_both_texts_have_their_own_type(tokenizer: Any) -> None:
    batch = PairEncoder(tokenizer, 48)([Pair("a", "film"), Pair("a film", "about the sea")])
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0], [1] * 8]


@pytest.mark.parametrize(
    ("content", "kind", "text"), [("a film", ItemText.CONTENT, "a film"), ("a film", ItemText.WHOLE, "a film\nright"), (" ", ItemText.CONTENT, "right")]
)
def test_the_text_of_a_items(content: str, kind: ItemText, text: str) -> None:
    assert reranked_text(Item(content), kind) == text


def test_an_encoder_that_is_not_there_or_too_short_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"hydra\.encoder="):
        load_encoder(settings_for(tmp_path / "none"))
    with pytest.raises(BadSetting, match=r"hydra\.max_length=512: .* has 64 positions"):
        load_encoder(settings_for(make_encoder(tmp_path / "encoder"), max_length=512))
