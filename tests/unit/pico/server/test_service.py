from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import httpx
import pytest

from infra.checkpoints.size import VLLM_FROM_BYTES
from infra.errors import BadSetting
from infra.settings import load
from infra.settings.models import EngineKind
from pico.server import service
from pico.server.app import create_app
from tests.support.tiny_model import make_checkpoint


def weights(folder: Path, size: int) -> Path:
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(size)
    return folder


@pytest.mark.parametrize(
    ("wanted", "size", "kind"),
    [
        (EngineKind.AUTO, VLLM_FROM_BYTES - 1, EngineKind.TRANSFORMERS),
        (EngineKind.AUTO, VLLM_FROM_BYTES, EngineKind.VLLM),
        (EngineKind.VLLM, 1, EngineKind.VLLM),
        (EngineKind.TRANSFORMERS, VLLM_FROM_BYTES, EngineKind.TRANSFORMERS),
    ],
)
def test_small_checkpoints_are_served_by_transformers_unless_vllm_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: EngineKind, size: int, kind: EngineKind
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert service.engine_kind(load(base={"engine": wanted}), weights(tmp_path, size)) is kind


def test_a_large_checkpoint_is_served_by_transformers_where_vllm_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert service.engine_kind(load(), weights(tmp_path, VLLM_FROM_BYTES)) is EngineKind.TRANSFORMERS
    with pytest.raises(BadSetting, match=r"base\.engine=vllm"):
        service.engine_kind(load(base={"engine": "vllm"}), tmp_path)


def test_a_folder_without_a_model_is_a_bad_setting(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"base\.checkpoint=.*there is no model"):
        service.load_engine(load(base={"checkpoint": tmp_path}))


async def test_a_model_answers_chats_with_several_choices(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "base", seed=0)
    engine, chat = await asyncio.to_thread(service.load_engine, load(base={"checkpoint": checkpoint}))
    messages = [{"role": "system", "content": "Be brief ."}, {"role": "user", "content": "tag : the sea"}]
    greedy = {"model": "m", "messages": messages, "max_tokens": 6, "n": 2}

    try:
        app = create_app(engine, chat, "m", 8, lambda: None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=60) as client:
            bodies = [greedy, {**greedy, "messages": messages[1:]}, {**greedy, "n": 4, "temperature": 2.0}, {**greedy, "max_tokens": 5000}]
            answers = [(await client.post("/v1/chat/completions", json=body)).json() for body in bodies]
    finally:
        await engine.close()
    texts = [[choice["message"]["content"] for choice in answer.get("choices", ())] for answer in answers]
    assert texts[0][0] == texts[0][1] and len(set(texts[2])) > 1
    assert answers[0]["usage"]["prompt_tokens"] > answers[1]["usage"]["prompt_tokens"]  # the system turn reaches the model
    assert answers[3]["error"]["code"] == "context_length_exceeded"
