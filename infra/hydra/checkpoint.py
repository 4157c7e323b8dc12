"""A HYDRA checkpoint on disk: one folder with the encoders and heads of reranker and scorer, as safetensors.

    config.json, tokenizer.json, tokenizer_config.json   of the encoder that both networks started from
    reranker_encoder.safetensors, scorer_encoder.safetensors
    reranker_heads.safetensors, scorer_heads.safetensors   stacked heads (`infra.hydra.network.UserHeads`)
    heads.json                                             how texts become pairs, and each user's row of the stacked heads

Users appear as sha256 of `tenant/user` only. That hides names from a reader of the artifact, not from someone who guesses them.
`infra.checkpoints.verification` checks the kinds of files and the digest. Imports torch where it loads or saves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from infra.checkpoints.verification import BadCheckpoint, inspect_checkpoint, verify_checkpoint
from infra.hydra.pairs import PairEncoder
from infra.settings.hydra import ItemText

if TYPE_CHECKING:
    from infra.hydra.network import HydraNetwork

HEADS = "heads.json"
FORMAT = 1

#: sha256 of `tenant/user`.
UserDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Rows = Mapping[UserDigest, Annotated[int, Field(ge=1)]]


class Part(StrEnum):
    """The two networks of a checkpoint."""

    RERANKER = "reranker"
    SCORER = "scorer"

    @property
    def encoder_file(self) -> str:
        return f"{self}_encoder.safetensors"

    @property
    def heads_file(self) -> str:
        return f"{self}_heads.safetensors"


class HeadMap(BaseModel):
    """The content of heads.json. A user without a row in `reranker` or `scorer` is read by the shared head, row 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)] = FORMAT
    max_length: Annotated[int, Field(ge=8)]  # tokens of a pair
    item_text: ItemText
    reranker: Rows
    scorer: Rows

    @model_validator(mode="after")
    def _rows_are_distinct(self) -> HeadMap:
        for part in Part:
            if sorted(self.rows(part).values()) != list(range(1, len(self.rows(part)) + 1)):
                raise ValueError(f"the rows of {part} are not 1 to {len(self.rows(part))}")
        return self

    def rows(self, part: Part) -> Rows:
        return self.reranker if part is Part.RERANKER else self.scorer


@dataclass(frozen=True)
class HydraCheckpoint:
    """Loaded networks, in evaluation mode, with what their texts need."""

    networks: Mapping[Part, HydraNetwork]
    tokenizer: Any
    heads: HeadMap

    @property
    def pairs(self) -> PairEncoder:
        return PairEncoder(self.tokenizer, self.heads.max_length)


def user_digest(user: str) -> str:
    """The name of a user, `tenant/user`, in a checkpoint."""
    return hashlib.sha256(user.encode()).hexdigest()


def save_hydra(folder: Path, checkpoint: HydraCheckpoint) -> None:
    """Write the checkpoint to an empty or missing folder. Raises OSError if it cannot be written."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.networks[Part.RERANKER].encoder.config.save_pretrained(folder)
    checkpoint.tokenizer.save_pretrained(folder)
    for part, network in checkpoint.networks.items():
        for name, module in ((part.encoder_file, network.encoder), (part.heads_file, network.heads)):
            save_file({key: tensor.detach().cpu().contiguous().clone() for key, tensor in module.state_dict().items()}, folder / name)
    (folder / HEADS).write_text(checkpoint.heads.model_dump_json() + "\n", encoding="utf-8")


def load_hydra(folder: Path) -> HydraCheckpoint:
    """Load both networks for the CPU, in float32. Blocks for a second or more.

    Raises BadCheckpoint as `inspect_hydra` does, and for tensors that do not fit the config or the rows.
    """
    from transformers import AutoTokenizer

    heads = inspect_hydra(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return HydraCheckpoint({part: _load_network(folder, part, heads) for part in Part}, tokenizer, heads)


def inspect_hydra(folder: Path) -> HeadMap:
    """Check everything that needs no loaded weights. Raises BadCheckpoint, which names the file."""
    inspect_checkpoint(folder)
    return _head_map(folder)


def verify_hydra(folder: Path, digest: str | None = None, files: Mapping[str, str] | None = None) -> str:
    """Inspect a checkpoint, and compare it with the registered digest and file sums. Returns the digest. Raises BadCheckpoint."""
    actual = verify_checkpoint(folder, digest, files)
    _head_map(folder)
    return actual


def _head_map(folder: Path) -> HeadMap:
    for name in (HEADS, *(name for part in Part for name in (part.encoder_file, part.heads_file))):
        if not (folder / name).is_file():
            raise BadCheckpoint(f"{folder / name}: missing")
    try:
        return HeadMap.model_validate(json.loads((folder / HEADS).read_bytes()))
    except (ValueError, RecursionError) as error:
        reason = error.errors(include_input=False, include_url=False)[0]["msg"] if isinstance(error, ValidationError) else "not JSON"
        raise BadCheckpoint(f"{folder / HEADS}: {reason}") from None


def _load_network(folder: Path, part: Part, heads: HeadMap) -> HydraNetwork:
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModel

    from infra.hydra.network import HydraNetwork

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    network: HydraNetwork = HydraNetwork.over(AutoModel.from_config(config, trust_remote_code=False).float(), 1 + len(heads.rows(part)))
    for name, module in ((part.encoder_file, network.encoder), (part.heads_file, network.heads)):
        try:
            module.load_state_dict(load_file(folder / name), strict=True)
        except RuntimeError:  # its text lists all tensors
            raise BadCheckpoint(f"{folder / name}: its tensors do not fit config.json and the rows of {HEADS}") from None
    network.eval()
    return network
