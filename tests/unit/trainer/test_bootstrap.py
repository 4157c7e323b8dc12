from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infra.errors import CannotContinue
from infra.settings import load
from trainer.bootstrap import register_shipped


def test_versions_without_a_champion_are_left_to_a_person_with_what_to_do(tmp_path: Path) -> None:
    registry: Any = SimpleNamespace(name="m", versions=lambda: [SimpleNamespace(tags={})])
    with pytest.raises(CannotContinue, match=r"none is champion; point the alias with .*set_registered_model_alias\('m', 'champion', VERSION\)"):
        register_shipped(load(stack={"dir": tmp_path}), registry)
