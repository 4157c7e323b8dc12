"""The health port of a worker and of the streams process: ready while they are members of their group, and not while the broker is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.process.lifecycle import OK
from infra.settings import load
from tests.support.metrics_page import address, get, wait_until
from tests.support.openai_server import completion, serving
from tests.support.own_broker import own_broker
from tests.support.streams_process import running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.mark.parametrize("module", ["workers base", "streams"])
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
