from __future__ import annotations

import importlib.util

import pytest

from infra.errors import BadSetting
from infra.settings import Settings
from infra.settings.models import EngineKind, ReflectionSettings
from workers.serving.engines import factory


def test_auto_is_vllm_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    auto, vllm = (Settings(reflection=ReflectionSettings(engine=kind)) for kind in (EngineKind.AUTO, EngineKind.VLLM))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert factory.engine_kind(auto) is EngineKind.VLLM
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert factory.engine_kind(auto) is EngineKind.TRANSFORMERS
    with pytest.raises(BadSetting, match=r"reflection\.engine=vllm"):
        factory.engine_kind(vllm)
    with pytest.raises(BadSetting, match=r"base\.engine=vllm: vLLM is not installed.*set base\.engine=transformers"):
        factory.installed_kind(EngineKind.VLLM, "base.engine")
