"""The promoter's page and API over real connections, in front of a desk in memory."""

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
from trainer.promotion.operator_api import CommandRefused
from trainer.promotion.web import MAX_CONNECTIONS, Server, serve

TOKEN = "an operator's token"
WISH = {"operator": "ada", "reason": "looks good", "confirm": "5"}


@pytest.fixture(scope="module")
def kept() -> Iterator[tuple[MemoryPromoter, Server]]:
    """One server for all: what it tells of the state may be half a second old, so tests that read it begin their own."""
    promoter = MemoryPromoter(example_view())
    with serve(settings(), promoter, threading.Event()) as server:
        yield promoter, server


@pytest.fixture
def promoter(kept: tuple[MemoryPromoter, Server]) -> MemoryPromoter:
    kept[0].state, kept[0].trouble, kept[0].looks = example_view(), None, 0
    return kept[0]


@pytest.fixture
def http(kept: tuple[MemoryPromoter, Server], promoter: MemoryPromoter) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=kept[1].url, timeout=10) as client:
        yield client


@pytest.fixture
def fresh(promoter: MemoryPromoter) -> Iterator[httpx.Client]:
    with serve(settings(), promoter, threading.Event()) as server, httpx.Client(base_url=server.url, timeout=10) as client:
        yield client


def settings(**promotion: object) -> Settings:
    return load(promotion={"operator_token": TOKEN} | promotion)


def signed(token: str = TOKEN) -> dict[str, str]:
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


def test_every_answer_carries_the_headers_that_keep_other_sites_out(http: httpx.Client) -> None:
    for answer in (http.get("/"), http.get("/api/state"), http.get("/nowhere"), http.post("/api/rollback"), http.get("/", headers={"host": "evil.example"})):
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; base-uri 'none'")
        assert (answer.headers["x-frame-options"], answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("DENY", "nosniff", "no-store")
        assert "access-control-allow-origin" not in answer.headers


def test_the_state_is_the_desks_view_and_many_viewers_cost_one_look(fresh: httpx.Client, promoter: MemoryPromoter) -> None:
    promoter.state["quality"][0]["high"] = promoter.state["transitions"][0]["evidence"]["alpha"] = math.inf
    found = [fresh.get("/api/state").json() for _ in range(20)]
    assert found[0]["champion"] == "4" and found[0]["quality"][0]["high"] is found[0]["transitions"][0]["evidence"]["alpha"] is None
    assert promoter.looks < 20


def test_what_the_page_asks_for_every_second_does_not_grow_with_every_version(fresh: httpx.Client, promoter: MemoryPromoter) -> None:
    whole, page = fresh.get("/api/state").json(), fresh.get("/api/page").json()
    assert page["transitions"] == whole["transitions"] and "evidence" not in page["versions"][1]["transitions"][0]
    assert [version["state"] for version in page["versions"]] == [version["state"] for version in whole["versions"]]


def test_of_many_versions_the_page_shows_the_newest_and_those_that_serve_or_may_again(promoter: MemoryPromoter) -> None:
    newer = [example_view()["versions"][1] | {"version": str(number)} for number in range(7, 1_000)]
    with serve(settings(), MemoryPromoter(example_view() | {"versions": example_view()["versions"] + newer}), threading.Event()) as server:
        found = httpx.get(f"{server.url}/api/page")
    assert [version["version"] for version in found.json()["versions"]] == ["1", "3", "4", "5", *map(str, range(940, 1_000))]
    assert len(found.content) < 200_000


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "0.0.0.0"])
def test_a_name_that_somebody_elses_dns_could_answer_to_is_turned_away(http: httpx.Client, host: str) -> None:
    assert http.get("/api/state", headers={"host": host}).status_code in (400, 403)
    assert http.get("/health", headers={"host": host or "probe"}).status_code in (200, 400)


def test_this_machines_names_and_that_of_promotion_url_are_served(promoter: MemoryPromoter) -> None:
    with serve(settings(url="https://board.example"), promoter, threading.Event()) as server:
        for host in ("localhost:1", "127.0.0.1", "[::1]:8", "LOCALHOST", "board.example"):
            assert httpx.get(f"{server.url}/api/state", headers={"host": host}).status_code == 200, host


@pytest.mark.parametrize("headers", [{}, signed("wrong"), {"authorization": f"Basic {TOKEN}"}, {"authorization": TOKEN}])
@pytest.mark.parametrize("path", ["/api/versions/5/promote", "/api/versions/5/reject", "/api/rollback"])
def test_without_the_token_nothing_changes(http: httpx.Client, promoter: MemoryPromoter, path: str, headers: dict[str, str]) -> None:
    answer = http.post(path, json=WISH, headers=headers)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_token" and TOKEN not in answer.text
    assert promoter.state["champion"] == "4" and len(promoter.state["transitions"]) == len(example_view()["transitions"])


def test_with_the_token_and_the_confirmation_the_version_serves_at_once_on_the_page(fresh: httpx.Client) -> None:
    fresh.get("/api/state")
    made = fresh.post("/api/versions/5/promote", json=WISH, headers=signed())
    assert (made.status_code, made.json()["after"], made.json()["actor"]) == (200, "champion", "ada")
    assert fresh.get("/api/state").json()["champion"] == "5"


@pytest.mark.parametrize(
    ("path", "wish", "status", "code"),
    [
        ("/api/versions/5/promote", WISH | {"confirm": "4"}, 409, "not_confirmed"),
        ("/api/rollback", WISH, 409, "not_confirmed"),  # of the champion, which is version 4
        ("/api/rollback", WISH | {"confirm": "4", "to": "2"}, 409, "refused"),
        ("/api/versions/2/promote", WISH | {"confirm": "2"}, 409, "refused"),
        ("/api/versions/99/reject", WISH | {"confirm": "99"}, 409, "refused"),
        ("/api/versions/5/promote", {"operator": "ada", "reason": ""}, 400, "invalid_body"),
        ("/api/versions/5/promote", WISH | {"operator": ""}, 400, "invalid_body"),
        ("/api/versions/5/promote", WISH | {"operator": "a\x1b[2J"}, 400, "invalid_body"),
        ("/api/versions/5/promote", WISH | {"reason": "x" * 2_001}, 400, "invalid_body"),
        ("/api/versions/5/promote", WISH | {"more": 1}, 400, "invalid_body"),
        ("/api/versions/5/promote", WISH | {"reason": "x" * 20_000}, 413, "too_large"),
        ("/api/versions/5/demote", WISH, 404, "not_found"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_be_right(
    http: httpx.Client, promoter: MemoryPromoter, path: str, wish: dict[str, str], status: int, code: str
) -> None:
    answer = http.post(path, json=wish, headers=signed())
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code) and answer.json()["error"]["message"]
    assert promoter.state["champion"] == "4"


def test_the_first_word_of_a_bad_body_is_not_repeated(http: httpx.Client) -> None:
    answer = http.post("/api/rollback", content=b'{"secret words": ', headers=signed())
    assert answer.status_code == 400 and "secret words" not in answer.text


def test_a_rollback_gives_up_the_champion_that_was_confirmed(http: httpx.Client, promoter: MemoryPromoter) -> None:
    made = http.post("/api/rollback", json=WISH | {"confirm": "4", "to": "1"}, headers=signed())
    assert (made.status_code, made.json()["rolls_back"], promoter.state["champion"]) == (200, True, "1")


def test_a_champion_who_came_after_the_last_look_is_not_given_up(http: httpx.Client, promoter: MemoryPromoter, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = promoter.view()
    promoter.promote("5", "promoter", "better")
    monkeypatch.setattr(promoter, "view", lambda: seen)
    answer = http.post("/api/rollback", json=WISH | {"confirm": "4"}, headers=signed())
    assert (answer.status_code, answer.json()["error"]["code"], promoter.state["champion"]) == (409, "refused", "5")


@pytest.mark.parametrize(
    ("trouble", "status"), [(RetryLater("the registry is away"), 503), (CommandRefused("no"), 409), (CannotContinue("a second writer"), 500)]
)
def test_the_desks_trouble_has_a_status_and_its_own_words(fresh: httpx.Client, promoter: MemoryPromoter, trouble: Exception, status: int) -> None:
    promoter.trouble = trouble  # type: ignore[assignment]  # one of ours
    for answer in (fresh.get("/api/state"), fresh.post("/api/versions/5/reject", json=WISH, headers=signed())):
        assert (answer.status_code, answer.json()["error"]["message"]) == (status, str(trouble))


def test_without_an_operator_token_this_machine_may_look_and_nobody_may_write(promoter: MemoryPromoter) -> None:
    with serve(load(), promoter, threading.Event()) as server:
        assert httpx.get(f"{server.url}/api/state").status_code == 200
        answer = httpx.post(f"{server.url}/api/rollback", json=WISH, headers=signed("x"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_operator_token")


def test_other_machines_are_let_in_only_where_a_token_is_set_and_read_only_with_it(promoter: MemoryPromoter) -> None:
    with pytest.raises(BadSetting, match=r"set promotion\.operator_token"):
        serve(load(promotion={"host": "0.0.0.0"}), promoter, threading.Event())
    with serve(settings(host="0.0.0.0"), promoter, threading.Event()) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{server.url}/api/state").status_code == 401
        assert httpx.get(f"{server.url}/api/state", headers=signed()).status_code == 200
        assert httpx.get(f"{server.url}/").status_code == 200


def test_a_taken_port_is_named(http: httpx.Client, promoter: MemoryPromoter) -> None:
    port = int(str(http.base_url).rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(CannotContinue, match=f"127.0.0.1:{port}"):
        serve(settings(port=port), promoter, threading.Event())


def test_no_log_line_holds_the_token_or_what_was_written(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        http.post("/api/versions/5/promote", json=WISH | {"reason": "for my eyes"}, headers=signed())
        http.post("/api/versions/5/promote", json=WISH, headers=signed("a wrong token, too"))
    told = "\n".join(json.dumps(record.__dict__, default=str) for record in caplog.records if not record.name.startswith("http"))
    assert TOKEN not in told and "a wrong token" not in told and "for my eyes" not in told


def _slow(head: bytes, url: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    connection.settimeout(30)
    connection.sendall(head)
    return connection


def _read_to_its_end(connection: socket.socket) -> None:
    with suppress(ConnectionResetError):  # one of the ways in which a connection ends that is given up
        while connection.recv(65_536):
            pass


@pytest.mark.parametrize(
    "head", [b"", b"GET / HTTP/1.1\r\nhost: ", b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n"], ids=["silent", "head", "body"]
)
def test_a_connection_that_says_no_more_is_given_up(promoter: MemoryPromoter, head: bytes) -> None:
    with serve(settings(), promoter, threading.Event(), request_within_s=1.0) as server, _slow(head, server.url) as connection:
        _read_to_its_end(connection)


def test_silent_connections_lock_operators_out_for_a_moment_only(promoter: MemoryPromoter) -> None:
    with serve(settings(), promoter, threading.Event(), request_within_s=2.0) as server, ExitStack() as closing:
        for connection in [closing.enter_context(_slow(b"", server.url)) for _ in range(MAX_CONNECTIONS)]:
            _read_to_its_end(connection)
        assert httpx.post(f"{server.url}/api/versions/5/promote", json=WISH, headers=signed()).status_code == 200
