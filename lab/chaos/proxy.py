"""A TCP proxy on loopback with faults: delayed, held or reset connections, and refused requests.

One thread with an event loop. It is independent of protocols except for `RefuseRequests`, which answers in HTTP/1.1.
It does not lose single bytes: TCP would send them again, so a lost packet is a late packet, as in `Hold`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

from infra.process.ports import free_port

CHUNK_BYTES = 65_536
#: Maximum number of delayed chunks per direction. More block the sender, as on a slow link.
WAITING_CHUNKS = 256
#: Of a change or an end of the own event loop, which takes milliseconds: long, because a busy machine may not run this process for seconds.
CLOSE_WITHIN_S = 60.0
#: Bound for a client to read its refusal.
REFUSAL_S = 2.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing sends RST


@dataclass(frozen=True)
class PassThrough:
    """No fault."""


@dataclass(frozen=True)
class Delay:
    """Every byte arrives `by_s` seconds later, in order."""

    by_s: float


@dataclass(frozen=True)
class Hold:
    """Nothing arrives, in either direction, until the mode ends; then everything does. New connections are accepted and held too."""


@dataclass(frozen=True)
class ResetConnections:
    """Resets all connections, and new ones at once."""


@dataclass(frozen=True)
class RefuseRequests:
    """Answers requests with this HTTP status and does not forward them."""

    status: int


Mode = PassThrough | Delay | Hold | ResetConnections | RefuseRequests
Pump = Coroutine[Any, Any, None]


class Proxy:
    """Forwards `port` to the port that `target()` returns for each connection. A context manager; `set` may be called from any thread."""

    def __init__(self, host: str, target: Callable[[], int]) -> None:
        self.host = host
        self.port = free_port(host)
        self._target = target
        self._mode: Mode = PassThrough()
        self._changed = asyncio.Event()
        self._connections: set[Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._call(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_WITHIN_S)
            self._loop.close()

    @property
    def mode(self) -> Mode:
        return self._mode

    def set(self, mode: Mode) -> None:
        """Applies `mode` to all connections. Returns when it is in effect."""
        self._call(self._set(mode))

    def _call(self, work: Pump) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CLOSE_WITHIN_S)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, self.port)

    async def _set(self, mode: Mode) -> None:
        self._mode = mode
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if isinstance(mode, ResetConnections):
            for connection in list(self._connections):
                connection.reset()

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.reset()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            if not isinstance(self._mode, ResetConnections):
                await connection.run(self._target())
        except (OSError, asyncio.CancelledError):
            pass  # the target is unreachable, or this proxy closes: the connection ends
        finally:
            self._connections.discard(connection)
            connection.reset()

    async def let_through(self) -> None:
        """Returns when the mode is not `Hold`."""
        while isinstance(self._mode, Hold):
            await self._changed.wait()


class Connection:
    """One client connection with its own connection to the target."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = reader, writer
        self._writers = [writer]

    async def run(self, port: int) -> None:
        """Runs until both sides have ended, or the connection is reset. Raises OSError if the target is unreachable."""
        upstream_reader, upstream_writer = await asyncio.open_connection(self._proxy.host, port)
        self._writers.append(upstream_writer)
        reader, writer = self._client
        directions = [self._forward(reader, upstream_writer, is_request=True), self._forward(upstream_reader, writer, is_request=False)]
        await _all_or_none(directions)

    def reset(self) -> None:
        for writer in self._writers:
            with suppress(OSError):
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool) -> None:
        """One direction: reading and delivering are two tasks, so that a delayed byte does not add to the delay of later bytes."""
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_CHUNKS)
        await _all_or_none([self._read(reader, chunks, is_request), self._deliver(chunks, writer)])

    async def _read(self, reader: asyncio.StreamReader, chunks: asyncio.Queue[tuple[float, bytes]], is_request: bool) -> None:
        while True:
            chunk = await reader.read(CHUNK_BYTES)
            mode = self._proxy.mode
            if is_request and chunk and isinstance(mode, RefuseRequests):
                await self._refuse(mode.status)
            delay_s = mode.by_s if isinstance(mode, Delay) else 0.0
            await chunks.put((asyncio.get_running_loop().time() + delay_s, chunk))
            if not chunk:
                return

    async def _deliver(self, chunks: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, chunk = await chunks.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            await self._proxy.let_through()
            if not chunk:
                with suppress(OSError):
                    writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()

    async def _refuse(self, status: int) -> None:
        """Answers instead of the target and waits until the client has read it. Raises ConnectionAbortedError, which ends the connection."""
        reader, writer = self._client
        writer.write(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        with suppress(TimeoutError):
            async with asyncio.timeout(REFUSAL_S):
                while await reader.read(CHUNK_BYTES):
                    pass
        raise ConnectionAbortedError


async def _all_or_none(work: list[Pump]) -> None:
    """Runs all to their end. If one fails, cancels the others and raises the failure."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
