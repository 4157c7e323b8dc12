"""Writes a checkpoint folder that passes all checks but whose weights cannot be loaded."""

from __future__ import annotations

import json
from pathlib import Path


def write_checkpoint(folder: Path, *, weights: bytes = b"\x00" * 16, hidden_size: int = 8) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"], "hidden_size": hidden_size}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "padding": None}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "a"}))
    (folder / "README.md").write_text("a card")
    header = json.dumps({"w": {"dtype": "F32", "shape": [len(weights) // 4], "data_offsets": [0, len(weights)]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + weights)
    return folder
