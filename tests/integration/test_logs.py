"""Standard error of every process, from its start to its end after SIGTERM: each line is one JSON object."""

from __future__ import annotations

import json

import pytest

from infra.settings import Settings, load
from tests.support.openai_server import completion, serving
from tests.support.streams_process import running
from trainer.promotion.bootstrap import bootstrap

PROCESSES = (
    "streams",
    "streams quality",
    "workers base",
    "workers strategies",
    "workers profiles",
    "workers teacher",
    "workers reflection",  # on vLLM, where it is installed
    "trainer.promotion",
    "trainer",
)


pytestmark = [pytest.mark.integration, pytest.mark.long("starts and stops nine processes"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a registry with a champion."""
    folder = tmp_path_factory.mktemp("registry")
    address = f"sqlite:///{folder}/registry.db"
    bootstrap(load(registry={"tracking_uri": address}, stack={"dir": folder}))
    return address


@pytest.mark.parametrize("module", PROCESSES)
def test_every_line_of_a_process_is_a_json_object(module: str, settings: Settings, registry: str) -> None:
    with serving(lambda _: completion("comedy")) as endpoint:
        more = {"OPENAI_BASE_URL": endpoint.url, "RETOUCH_BASE__PROMPT_STYLE": "paper", "MLFLOW_TRACKING_URI": registry}
        with running(settings, module, **more) as process:
            assert process.stop() == 0
    lines = process.log().splitlines()
    assert lines
    assert [line for line in lines if not is_json_object(line)] == []


def is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
