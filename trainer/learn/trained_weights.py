"""The weights that training changes, and their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def trained_weights(model: Any) -> dict[str, Tensor]:
    """The weights that training changes, by name. A tied weight is listed once."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
