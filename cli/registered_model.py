"""The registered models that `retouch models` shows and promotes."""

from enum import StrEnum


class RegisteredModel(StrEnum):
    REFLECTION = "reflection"
    HYDRA = "hydra"
