from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from infra.checkpoints.precision import engine_dtype, processor_has_bfloat16
from infra.checkpoints.verification import stored_dtypes
from infra.settings.models import Dtype

WITH = "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n\nprocessor\t: 1\nflags\t\t: fpu avx512f avx512_bf16\n"
WITHOUT = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16_like\n"


@pytest.fixture
def with_bfloat16(tmp_path: Path) -> Path:
    (tmp_path / "cpuinfo").write_text(WITH)
    return tmp_path / "cpuinfo"


def weights(folder: Path, **dtypes: str) -> Path:
    """A checkpoint's files of weights, each with a tensor of this dtype."""
    folder.mkdir()
    for name, dtype in dtypes.items():
        header = json.dumps({"w": {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}}).encode()
        (folder / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


@pytest.mark.parametrize(
    ("text", "has"),
    [
        (WITH, True),
        (WITHOUT, False),
        (WITH + WITHOUT, False),
        ("flags : amx_bf16", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("model name : avx512_bf16", False),
        ("", False),
    ],
)
def test_the_processor_has_bfloat16_if_all_of_its_cores_say_so(tmp_path: Path, text: str, has: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert processor_has_bfloat16(tmp_path / "cpuinfo") is has


def test_a_system_that_does_not_say_counts_as_without(tmp_path: Path) -> None:
    assert not processor_has_bfloat16(tmp_path / "none")


@pytest.mark.parametrize(("stored", "dtype"), [({"a": "BF16"}, "bfloat16"), ({"a": "F16"}, "float32"), ({"a": "F32"}, "float32")])
def test_auto_computes_in_bfloat16_only_what_is_stored_so(tmp_path: Path, with_bfloat16: Path, stored: dict[str, str], dtype: str) -> None:
    checkpoint = weights(tmp_path / "model", **stored)
    assert engine_dtype(Dtype.AUTO, checkpoint, on_gpu=False, cpuinfo=with_bfloat16) == dtype
    assert engine_dtype(Dtype.AUTO, checkpoint, on_gpu=False, cpuinfo=tmp_path / "none") == "float32"
    assert engine_dtype(Dtype.AUTO, checkpoint, on_gpu=True) == "auto"


def test_a_checkpoint_of_several_dtypes_computes_in_float32(tmp_path: Path, with_bfloat16: Path) -> None:
    checkpoint = weights(tmp_path / "model", a="BF16", b="F32")
    assert stored_dtypes(checkpoint) == {"BF16", "F32"}
    assert engine_dtype(Dtype.AUTO, checkpoint, on_gpu=False, cpuinfo=with_bfloat16) == "float32"


@pytest.mark.parametrize("wanted", [Dtype.FLOAT32, Dtype.BFLOAT16])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_set_precision_is_taken_as_it_is(tmp_path: Path, wanted: Dtype, on_gpu: bool) -> None:
    assert engine_dtype(wanted, weights(tmp_path / "model", a="F32"), on_gpu=on_gpu) == wanted.value
