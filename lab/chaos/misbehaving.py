"""An HTTP endpoint in front of the base model that gives a share of the calls a bad answer: each kind once per round, in an order drawn from a seed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from infra.process.ports import free_port
from lab.chaos.bad_answers import KINDS, BadAnswer, BadAnswerKind
from schemas.drafts import FailureCause
from schemas.sameness import is_blank

SHARE = 0.2
CALL_S = 60.0
#: Of the start or the end of the own event loop: long for a busy machine.
CLOSE_WITHIN_S = 60.0
#: Names for bad answers of the base model itself, and their cause.
OWN = {"own-empty": FailureCause.NO_TEXT, "own-too-long": FailureCause.PROMPT_TOO_LONG}


class MisbehavingEndpoint:
    """Forwards `port` to the port that `target()` returns. A context manager; misbehaves between `begin` and `end`. Any thread may call them.

    `given` counts the bad answers by kind. An answer is counted before it is sent, so no caller gets more than are counted.
    """

    def __init__(self, host: str, target: Callable[[], int], seed: int, share: float = SHARE) -> None:
        self.host = host
        self.port = free_port(host)
        self.given: Counter[str] = Counter()
        self.calls = 0
        self._target = target
        self._rng = random.Random(f"endpoint/{seed}")  # noqa: S311  # repeatable, no secret
        self._share = share
        self._kinds = self._in_turn()
        self._misbehaves = False
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), name=f"endpoint-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(CLOSE_WITHIN_S):
            raise TimeoutError(f"the lab's endpoint does not listen on port {self.port}")
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_WITHIN_S)
        if not self._thread.is_alive():
            self._loop.close()

    def begin(self) -> None:
        self._misbehaves = True

    def end(self) -> None:
        self._misbehaves = False

    def explained(self) -> Counter[FailureCause]:
        """How many queries the answers given so far may have ended, by cause."""
        causes = {kind.name: kind.ends_as for kind in KINDS} | OWN
        explained: Counter[FailureCause] = Counter()
        for name, count in self.given.items():
            if (cause := causes[name]) is not None:
                explained[cause] += count
        return explained

    def _in_turn(self) -> Iterator[BadAnswerKind]:
        while True:
            yield from self._rng.sample(KINDS, len(KINDS))

    async def _serve(self) -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        async with ClientSession(timeout=ClientTimeout(total=CALL_S)) as self._session:
            await runner.setup()
            try:
                await web.TCPSite(runner, self.host, self.port, backlog=1024).start()
                self._started.set()
                await self._stop.wait()
            finally:
                await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        url = f"http://{self.host}:{self._target()}{request.path_qs}"
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() in ("content-type", "authorization", "traceparent")}
            async with self._session.request(request.method, url, data=await request.read(), headers=headers) as reply:
                status, body = reply.status, await reply.read()
        except (ClientError, TimeoutError, OSError):
            _break(request)
            return web.Response(status=502)
        self.calls += 1
        good = self._good(status, body)
        if good is not None and self._misbehaves and self._rng.random() < self._share:
            kind = next(self._kinds)
            self.given[kind.name] += 1
            return await _send(request, kind.make(good))
        return web.Response(status=status, body=body, content_type="application/json")

    def _good(self, status: int, body: bytes) -> dict[str, Any] | None:
        """A good answer, from which a bad one can be made. Counts the base model's own bad ones."""
        if status == 400:
            self.given["own-too-long"] += 1
        if status != 200:
            return None
        try:
            completion: dict[str, Any] = json.loads(body)
            text = completion["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            return None
        if is_blank(text):
            self.given["own-empty"] += 1
            return None
        return completion


async def _send(request: web.Request, answer: BadAnswer) -> web.StreamResponse:
    headers = {"Content-Type": "application/json", **answer.headers}
    if not answer.cut:
        return web.Response(status=answer.status, headers=headers, body=answer.body)
    response = web.StreamResponse(status=answer.status, headers=headers | {"Content-Length": str(len(answer.body) + 100)})
    with contextlib.suppress(ConnectionError):  # the caller is gone
        await response.prepare(request)
        await response.write(answer.body)
    _break(request)
    return response


def _break(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
