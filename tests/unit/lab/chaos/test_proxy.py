"""The proxy on real sockets, between a client and a server that answers in capitals."""

from __future__ import annotations

import socket
import socketserver
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest

from lab.chaos.proxy import Delay, Hold, Mode, PassThrough, Proxy, RefuseRequests, ResetConnections

BOUND_S = 10.0
#: Time without data that counts as silence.
SILENCE_S = 0.2


class Shouting(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with suppress(ConnectionError):  # the proxy resets connections on purpose
            while heard := self.request.recv(4096):
                self.request.sendall(heard.upper())


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Server(("127.0.0.1", 0), Shouting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Proxy("127.0.0.1", lambda: server.server_address[1]) as running:
            yield running
        server.shutdown()
        thread.join(BOUND_S)


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as connected:
        yield connected


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=BOUND_S)


def echo(client: socket.socket, word: bytes) -> bytes:
    client.sendall(word)
    return client.recv(100)


def is_gone(client: socket.socket) -> bool:
    try:
        return echo(client, b"word") == b""
    except ConnectionError:
        return True


def is_refused(proxy: Proxy) -> bool:
    """Whether a new connection ends, at its start or with its first bytes; which of the two is a race."""
    try:
        with connect(proxy) as new:
            return is_gone(new)
    except ConnectionError:
        return True


def test_the_proxy_forwards_everything(client: socket.socket) -> None:
    assert [echo(client, b"one"), echo(client, b"two")] == [b"ONE", b"TWO"]


def test_the_end_of_a_stream_is_forwarded(client: socket.socket) -> None:
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    assert client.recv(100) == b"LAST"
    assert client.recv(100) == b""


@pytest.mark.parametrize("mode", [Hold(), Delay(BOUND_S / 2)])
def test_held_or_delayed_bytes_do_not_arrive_at_once(proxy: Proxy, client: socket.socket, mode: Mode) -> None:
    proxy.set(mode)
    client.settimeout(SILENCE_S)
    with pytest.raises(TimeoutError):
        echo(client, b"word")


def test_held_bytes_arrive_after_the_hold(proxy: Proxy, client: socket.socket) -> None:
    proxy.set(Hold())
    client.sendall(b"word")
    proxy.set(PassThrough())
    assert client.recv(100) == b"WORD"


def test_delayed_bytes_arrive_in_order(proxy: Proxy, client: socket.socket) -> None:
    proxy.set(Delay(0.1))
    client.sendall(b"one ")
    proxy.set(PassThrough())
    client.sendall(b"two")
    heard = b""
    while len(heard) < 7:
        heard += client.recv(100)
    assert heard == b"ONE TWO"


def test_reset_mode_resets_old_and_new_connections(proxy: Proxy, client: socket.socket) -> None:
    assert echo(client, b"word") == b"WORD"
    proxy.set(ResetConnections())
    assert is_gone(client)
    assert is_refused(proxy)


def test_a_new_connection_works_after_reset_mode(proxy: Proxy) -> None:
    proxy.set(ResetConnections())
    proxy.set(PassThrough())
    with connect(proxy) as client:
        assert echo(client, b"word") == b"WORD"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_refused_request_is_answered_by_the_proxy(proxy: Proxy, status: int) -> None:
    proxy.set(RefuseRequests(status))
    request = urllib.request.Request(f"http://{proxy.host}:{proxy.port}/v1", data=b"x" * 100_000)
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=BOUND_S)
    with raised.value as answer:
        assert answer.code == status


def test_an_unreachable_target_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with Proxy("127.0.0.1", lambda: port) as proxy:
        assert is_refused(proxy)
