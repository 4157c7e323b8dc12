"""The promoter's page and API over real connections, in front of a promoter in memory."""

from __future__ import annotations

import json
import logging
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from infra.errors import BadSetting, CannotContinue, RetryLater
from infra.settings import Settings, load
from tests.support.memory_promoter import MemoryPromoter, example_view
from trainer.promotion import api
from trainer.promotion.operator_commands import CommandRefused, OperatorCommand
from trainer.promotion.web import MAX_CONNECTIONS, Server, serve

TOKEN = "an operator's token"
COMMAND = {"operator": "ada", "reason": "looks good", "confirm": "5"}


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[MemoryPromoter, Server]]:
    """One server for all tests. Its view may be half a second old, so tests that read the view use `fresh`."""
    promoter = MemoryPromoter(example_view())
    with serve(settings(), promoter, threading.Event()) as server:
        yield promoter, server


@pytest.fixture
def promoter(shared: tuple[MemoryPromoter, Server]) -> MemoryPromoter:
    shared[0].state, shared[0].trouble, shared[0].views = example_view(), None, 0
    return shared[0]


@pytest.fixture
def http(shared: tuple[MemoryPromoter, Server], promoter: MemoryPromoter) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared[1].url, timeout=10) as client:
        yield client


@pytest.fixture
def fresh(promoter: MemoryPromoter) -> Iterator[httpx.Client]:
    with serve(settings(), promoter, threading.Event()) as server, httpx.Client(base_url=server.url, timeout=10) as client:
        yield client


def settings(**promotion: object) -> Settings:
    return load(promotion={"operator_token": TOKEN} | promotion)


def authorization(token: str = TOKEN) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.status_code == 200 and '<script type="module" src="/app.js"></script>' in page.text
    assert "style=" not in page.text and " on" + "click" not in page.text
    for file in sorted(api.PAGE.iterdir()):
        text = http.get("/" if file.name == "index.html" else f"/{file.name}").text
        assert "http://" not in text.replace("http://www.w3.org/", "") and "https://" not in text and "innerHTML" not in text and "localStorage" not in text, (
            file.name
        )


def test_every_reply_has_the_headers_that_keep_other_sites_out(http: httpx.Client) -> None:
    for answer in (http.get("/"), http.get("/api/state"), http.get("/nowhere"), http.post("/api/rollback"), http.get("/", headers={"host": "evil.example"})):
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; base-uri 'none'")
        assert (answer.headers["x-frame-options"], answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("DENY", "nosniff", "no-store")
        assert "access-control-allow-origin" not in answer.headers


def test_many_readers_share_one_view(fresh: httpx.Client, promoter: MemoryPromoter) -> None:
    promoter.state["quality"][0]["high"] = promoter.state["transitions"][0]["evidence"]["alpha"] = math.inf
    result = [fresh.get("/api/state").json() for _ in range(20)]
    assert result[0]["champion"] == "4" and result[0]["quality"][0]["high"] is result[0]["transitions"][0]["evidence"]["alpha"] is None
    assert promoter.views < 20


def test_the_pages_reply_leaves_out_evidence_of_old_transitions(fresh: httpx.Client, promoter: MemoryPromoter) -> None:
    whole, page = fresh.get("/api/state").json(), fresh.get("/api/page").json()
    assert page["transitions"] == whole["transitions"] and "evidence" not in page["versions"][1]["transitions"][0]
    assert [version["state"] for version in page["versions"]] == [version["state"] for version in whole["versions"]]


def test_the_page_shows_the_newest_versions_and_present_and_former_champions(promoter: MemoryPromoter) -> None:
    newer = [example_view()["versions"][1] | {"version": str(number)} for number in range(7, 1_000)]
    with serve(settings(), MemoryPromoter(example_view() | {"versions": example_view()["versions"] + newer}), threading.Event()) as server:
        result = httpx.get(f"{server.url}/api/page")
    assert [version["version"] for version in result.json()["versions"]] == ["1", "3", "4", "5", *map(str, range(940, 1_000))]
    assert len(result.content) < 200_000


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "0.0.0.0"])
def test_a_request_under_another_hosts_name_is_denied(http: httpx.Client, host: str) -> None:
    assert http.get("/api/state", headers={"host": host}).status_code in (400, 403)
    assert http.get("/health", headers={"host": host or "probe"}).status_code in (200, 400)


def test_loopback_names_and_the_host_of_promotion_url_are_served(promoter: MemoryPromoter) -> None:
    with serve(settings(url="https://board.example"), promoter, threading.Event()) as server:
        for host in ("localhost:1", "127.0.0.1", "[::1]:8", "LOCALHOST", "board.example"):
            assert httpx.get(f"{server.url}/api/state", headers={"host": host}).status_code == 200, host


@pytest.mark.parametrize("headers", [{}, authorization("wrong"), {"authorization": f"Basic {TOKEN}"}, {"authorization": TOKEN}])
@pytest.mark.parametrize("path", ["/api/versions/5/promote", "/api/versions/5/reject", "/api/rollback"])
def test_without_the_token_nothing_changes(http: httpx.Client, promoter: MemoryPromoter, path: str, headers: dict[str, str]) -> None:
    answer = http.post(path, json=COMMAND, headers=headers)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_token" and TOKEN not in answer.text
    assert promoter.state["champion"] == "4" and len(promoter.state["transitions"]) == len(example_view()["transitions"])


def test_with_token_and_confirmation_the_view_shows_the_new_champion_at_once(fresh: httpx.Client) -> None:
    fresh.get("/api/state")
    response = fresh.post("/api/versions/5/promote", json=COMMAND, headers=authorization())
    assert (response.status_code, response.json()["after"], response.json()["actor"]) == (200, "champion", "ada")
    assert fresh.get("/api/state").json()["champion"] == "5"


@pytest.mark.parametrize(
    ("path", "command", "status", "code"),
    [
        ("/api/versions/5/promote", COMMAND | {"confirm": "4"}, 409, "not_confirmed"),
        ("/api/rollback", COMMAND, 409, "not_confirmed"),  # the champion is version 4
        ("/api/rollback", COMMAND | {"confirm": "4", "to": "2"}, 409, "refused"),
        ("/api/versions/2/promote", COMMAND | {"confirm": "2"}, 409, "refused"),
        ("/api/versions/99/reject", COMMAND | {"confirm": "99"}, 409, "refused"),
        ("/api/versions/5/promote", {"operator": "ada", "reason": ""}, 400, "invalid_body"),
        ("/api/versions/5/promote", COMMAND | {"operator": ""}, 400, "invalid_body"),
        ("/api/versions/5/promote", COMMAND | {"operator": "a\x1b[2J"}, 400, "invalid_body"),
        ("/api/versions/5/promote", COMMAND | {"reason": "x" * 2_001}, 400, "invalid_body"),
        ("/api/versions/5/promote", COMMAND | {"more": 1}, 400, "invalid_body"),
        ("/api/versions/5/promote", COMMAND | {"reason": "x" * 20_000}, 413, "too_large"),
        ("/api/versions/5/demote", COMMAND, 404, "not_found"),
    ],
)
def test_an_invalid_request_gets_its_status_and_code(
    http: httpx.Client, promoter: MemoryPromoter, path: str, command: dict[str, str], status: int, code: str
) -> None:
    answer = http.post(path, json=command, headers=authorization())
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code) and answer.json()["error"]["message"]
    assert promoter.state["champion"] == "4"


def test_an_error_reply_does_not_repeat_the_body(http: httpx.Client) -> None:
    answer = http.post("/api/rollback", content=b'{"secret words": ', headers=authorization())
    assert answer.status_code == 400 and "secret words" not in answer.text


def test_a_rollback_rejects_the_confirmed_champion(http: httpx.Client, promoter: MemoryPromoter) -> None:
    response = http.post("/api/rollback", json=COMMAND | {"confirm": "4", "to": "1"}, headers=authorization())
    assert (response.status_code, response.json()["rolls_back"], promoter.state["champion"]) == (200, True, "1")


def test_a_champion_newer_than_the_view_is_not_rejected(http: httpx.Client, promoter: MemoryPromoter, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = promoter.view()
    promoter.execute(OperatorCommand("promote", "5", "promoter", "better"))
    monkeypatch.setattr(promoter, "view", lambda: seen)
    answer = http.post("/api/rollback", json=COMMAND | {"confirm": "4"}, headers=authorization())
    assert (answer.status_code, answer.json()["error"]["code"], promoter.state["champion"]) == (409, "refused", "5")


@pytest.mark.parametrize(
    ("trouble", "status"), [(RetryLater("the registry is away"), 503), (CommandRefused("no"), 409), (CannotContinue("a second writer"), 500)]
)
def test_errors_of_the_promoter_keep_their_text_and_have_a_status(fresh: httpx.Client, promoter: MemoryPromoter, trouble: Exception, status: int) -> None:
    promoter.trouble = trouble  # type: ignore[assignment]  # one of ours
    for answer in (fresh.get("/api/state"), fresh.post("/api/versions/5/reject", json=COMMAND, headers=authorization())):
        assert (answer.status_code, answer.json()["error"]["message"]) == (status, str(trouble))


def test_without_an_operator_token_this_machine_can_read_and_none_can_write(promoter: MemoryPromoter) -> None:
    with serve(load(), promoter, threading.Event()) as server:
        assert httpx.get(f"{server.url}/api/state").status_code == 200
        answer = httpx.post(f"{server.url}/api/rollback", json=COMMAND, headers=authorization("x"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_operator_token")


def test_other_machines_can_connect_only_if_a_token_is_set_and_need_it_to_read(promoter: MemoryPromoter) -> None:
    with pytest.raises(BadSetting, match=r"set promotion\.operator_token"):
        serve(load(promotion={"host": "0.0.0.0"}), promoter, threading.Event())
    with serve(settings(host="0.0.0.0"), promoter, threading.Event()) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{server.url}/api/state").status_code == 401
        assert httpx.get(f"{server.url}/api/state", headers=authorization()).status_code == 200
        assert httpx.get(f"{server.url}/").status_code == 200


def test_a_taken_port_is_an_error_that_names_it(http: httpx.Client, promoter: MemoryPromoter) -> None:
    port = int(str(http.base_url).rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(CannotContinue, match=f"127.0.0.1:{port}"):
        serve(settings(port=port), promoter, threading.Event())


def test_no_log_line_holds_a_token_or_a_request_body(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        http.post("/api/versions/5/promote", json=COMMAND | {"reason": "for my eyes"}, headers=authorization())
        http.post("/api/versions/5/promote", json=COMMAND, headers=authorization("a wrong token, too"))
    logged = "\n".join(json.dumps(record.__dict__, default=str) for record in caplog.records if not record.name.startswith("http"))
    assert TOKEN not in logged and "a wrong token" not in logged and "for my eyes" not in logged


def _slow(head: bytes, url: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    connection.settimeout(30)
    connection.sendall(head)
    return connection


def _read_to_its_end(connection: socket.socket) -> None:
    with suppress(ConnectionResetError):  # one way in which an aborted connection ends
        while connection.recv(65_536):
            pass


@pytest.mark.parametrize(
    "head", [b"", b"GET / HTTP/1.1\r\nhost: ", b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n"], ids=["silent", "head", "body"]
)
def test_a_silent_connection_is_closed(promoter: MemoryPromoter, head: bytes) -> None:
    with serve(settings(), promoter, threading.Event(), request_within_s=1.0) as server, _slow(head, server.url) as connection:
        _read_to_its_end(connection)


def test_silent_connections_block_operators_only_until_their_time_limit(promoter: MemoryPromoter) -> None:
    with serve(settings(), promoter, threading.Event(), request_within_s=2.0) as server, ExitStack() as closing:
        for connection in [closing.enter_context(_slow(b"", server.url)) for _ in range(MAX_CONNECTIONS)]:
            _read_to_its_end(connection)
        assert httpx.post(f"{server.url}/api/versions/5/promote", json=COMMAND, headers=authorization()).status_code == 200
