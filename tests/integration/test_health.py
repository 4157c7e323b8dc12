"""The health port of a worker and of the streams process: ready while they are members of their group, and not while the broker or the engine is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.process.lifecycle import FAILED, OK
from infra.settings import Settings, load
from schemas.contexts import Context
from schemas.topics import CONTEXTS
from tests.support.metrics_page import WAIT_S, address, get, wait_until
from tests.support.openai_server import completion, serving
from tests.support.own_broker import own_broker
from tests.support.profile_tasks import history_items
from tests.support.streams_process import StreamsClient, draft, running
from trainer.promotion.bootstrap import bootstrap

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.mark.parametrize("module", [pytest.param("workers base", marks=pytest.mark.long("it waits for the end of a session")), "streams"])
def test_a_process_is_ready_while_it_is_a_member_of_its_group(module: str, tmp_path: Path) -> None:
    environment = {"RETOUCH_TELEMETRY__HTTP_PORT": "0", "RETOUCH_KAFKA__SESSION_TIMEOUT_MS": "3000"}
    with own_broker(tmp_path / "broker") as broker, serving(lambda _: completion("comedy")) as endpoint:
        settings = load(kafka={"bootstrap_servers": broker.bootstrap_servers}, stack={"dir": tmp_path / "state"})
        with running(settings, module, OPENAI_BASE_URL=endpoint.url, **environment) as process:
            url = address(process)
            wait_until(lambda: get(url, "/readyz") == "ok\n", "not ready beside a broker")
            broker.stop()
            wait_until(lambda: get(url, "/readyz").startswith("group: no member of group "), "ready without a broker")
            assert get(url, "/livez") == "ok\n"
            broker.start()
            wait_until(lambda: get(url, "/readyz") == "ok\n", "not ready although the broker is back")
            assert "process_resident_memory_bytes" in get(url, "/metrics")
            assert process.stop() == OK


@pytest.mark.parametrize("fault", [pytest.param("hangs", marks=pytest.mark.long("it waits for two watchdogs")), "breaks"])
def test_a_worker_whose_engine_is_lost_is_not_ready_and_ends(fault: str, settings: Settings, tmp_path: Path) -> None:
    registry = {"tracking_uri": f"sqlite:///{tmp_path}/registry.db"}
    bootstrap(load(registry=registry, stack={"dir": tmp_path}))
    environment = {"RETOUCH_TELEMETRY__HTTP_PORT": "0", "RETOUCH_REFLECTION__ENGINE": "transformers", "MLFLOW_TRACKING_URI": registry["tracking_uri"]}
    client = StreamsClient(settings)
    with running(settings, "tests.support.reflection_member", RETOUCH_WORKERS__STALL_TIMEOUT_S="8", **environment) as process:
        url = address(process)
        wait_until(lambda: get(url, "/readyz") == "ok\n", "not ready beside an engine that works")
        (settings.stack.dir / fault).touch()
        query = client.query("a film about the sea")
        client.send(CONTEXTS, Context(draft=draft(query), items=history_items([("a storm", "drama")]), k_max=6, retrieve_ms=1))
        if fault == "hangs":
            wait_until(lambda: get(url, "/readyz").startswith("engine: the engine has made no step for "), "ready beside an engine that hangs")
        assert process.wait(WAIT_S) == FAILED
    ends = {"hangs": ("made no step for", "reflection stalls"), "breaks": ("the engine died: RuntimeError",)}  # the worker's own watchdog may be first
    assert any(reason in process.log() for reason in ends[fault])
    client.close()
