"""A random tiny encoder for HYDRA, a checkpoint over it, and history items."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from infra.hydra.checkpoint import HeadMap, HydraCheckpoint, Part, user_digest
from infra.hydra.encoder import load_encoder
from infra.settings.hydra import HydraSettings, ItemText

WORDS = ("alpha", "beta", *str.split("a film about the sea old new red blue long short tag score style right wrong : - > ="), *map(str, range(100)))
#: Users of `make_hydra`. The scorer has a head for the first one only.
USERS = ("t/anna", "t/ben")


class Item(NamedTuple):
    """A history item as networks read it."""

    content: str
    response: str = "right"


def make_encoder(folder: Path, seed: int = 0, positions: int = 64) -> Path:
    """A random BERT of one layer, with a vocabulary of WORDS."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=positions
    )
    BertModel(config).save_pretrained(folder)
    return folder


def settings_for(folder: Path, **changes: object) -> HydraSettings:
    """Settings for a tiny encoder and some seconds."""
    tiny = {"encoder": str(folder), "max_length": 48, "learning_rate": 3e-3, "epochs": 4, "queries_per_user": 8, "batch_size": 16, "min_rows": 4}
    return HydraSettings.model_validate(tiny | changes)


def make_hydra(folder: Path) -> HydraCheckpoint:
    """Random networks over an encoder that is made in `folder`."""
    import torch

    from infra.hydra.network import HydraNetwork

    settings = settings_for(make_encoder(folder))
    torch.manual_seed(7)
    networks = {part: HydraNetwork.over(load_encoder(settings).model, rows).eval() for part, rows in ((Part.RERANKER, 3), (Part.SCORER, 2))}
    rows = {user_digest(user): row for row, user in enumerate(USERS, 1)}
    heads = HeadMap(max_length=settings.max_length, item_text=ItemText.CONTENT, reranker=rows, scorer={user_digest(USERS[0]): 1})
    return HydraCheckpoint(networks, load_encoder(settings).tokenizer, heads)
