"""A random BERT with the files of facebook/contriever: no module of sentence-transformers names a pooling or a normalisation."""

from __future__ import annotations

from pathlib import Path

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sea", "war", "love", "a", "film", "about"]
TEXTS = ["sea", "a film about the war", "love the sea a film about love", "the the the war"]


def make_contriever(directory: Path) -> Path:
    """Writes the checkpoint to the directory."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    BertTokenizerFast(vocab={word: number for number, word in enumerate(WORDS)}, model_max_length=64).save_pretrained(directory)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes), add_pooling_layer=False).eval().save_pretrained(directory)
    return directory
