"""HTTP API for operators, and the page that shows the promotion view. `operator_commands` describes the commands.

| path | reply |
|---|---|
| `GET /` and its files | the page: plain HTML, CSS and JavaScript, without a build step and without other hosts |
| `GET /api/state` | the promotion view; built at most every half second for all readers |
| `GET /api/page` | the part of it that the page shows |
| `POST /api/versions/{n}/promote`, `.../reject` | `{"operator", "reason", "confirm"}`; `confirm` repeats the version |
| `POST /api/rollback` | the same, with an optional `to`; `confirm` is the champion to reject |
| `GET /health` | this process answers |

Writing needs the operator token as `Authorization: Bearer`. Reading needs it too if other machines can connect. Errors are
`{"error": {"message", "type", "param", "code"}}`. No cookies, no CORS, and only the `Host` names of `web.allowed_hosts`: no script of another site can read.
"""

from __future__ import annotations

import asyncio
import logging
import math
import mimetypes
import secrets
import time
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from infra.errors import RetouchError, RetryLater
from schemas.promotion_view import ApiError, ErrorReply, OperatorRequest, PromotionSummary, VersionTransition
from trainer import promotion
from trainer.promotion.operator_commands import Action, CommandRefused, OperatorApi, OperatorCommand
from trainer.promotion.view import page_view

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

PAGE = Path(str(files(promotion))) / "page"
BODY_WITHIN_S, MAX_BODY_BYTES = 5.0, 16_384
FRESH_S, VIEW_WITHIN_S = 0.5, 10.0
#: A view that is slow to build is kept longer: COST_FACTOR times its build time, at most MAX_FRESH_S.
COST_FACTOR, MAX_FRESH_S = 4, 5.0
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class RequestDenied(Exception):
    """A request that gets an error reply."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


class ViewCache:
    """Caches the JSON of what `build` returns, so that its cost does not grow with the number of open pages. Concurrent readers share one build."""

    def __init__(self, build: Callable[[], PromotionSummary]) -> None:
        self._build = build
        self._json, self._fresh_until = b"", -math.inf
        self._task: asyncio.Task[bytes] | None = None

    def invalidate(self) -> None:
        """Drop the cached view, and the one that is being built."""
        self._fresh_until, self._task = -math.inf, None

    async def json(self) -> bytes:
        """Raises RetryLater if the view is not built in time."""
        if time.monotonic() < self._fresh_until:
            return self._json
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._refresh())
        try:
            return await asyncio.wait_for(asyncio.shield(self._task), VIEW_WITHIN_S)
        except TimeoutError:
            raise RetryLater(f"the registry did not answer within {VIEW_WITHIN_S:.0f} s") from None

    async def _refresh(self) -> bytes:
        started = time.monotonic()
        json = await asyncio.to_thread(self._serialize)
        if self._task is asyncio.current_task():
            now = time.monotonic()
            self._json, self._fresh_until = json, now + max(FRESH_S, min(MAX_FRESH_S, COST_FACTOR * (now - started)))
        return json

    def _serialize(self) -> bytes:
        """Runs in a thread, so that it does not block the server: 1,000 versions take 0.3 s (2026-11-28, two busy cores)."""
        return self._build().model_dump_json().encode()


def create_app(promoter: OperatorApi, *, token: str | None, hosts: frozenset[str], readers_need_token: bool) -> FastAPI:
    """`hosts`: the names that `Host` may hold. Without a token every command is denied."""
    app = FastAPI(openapi_url=None)
    state, page = ViewCache(promoter.view), ViewCache(lambda: page_view(promoter.view()))

    async def read(request: Request, cache: ViewCache) -> Response:
        if readers_need_token:
            _check_token(request, token)
        return Response(await cache.json(), media_type="application/json")

    @app.get("/api/state")
    async def get_state(request: Request) -> Response:
        return await read(request, state)

    @app.get("/api/page")
    async def get_page(request: Request) -> Response:
        return await read(request, page)

    _add_commands(app, promoter, token, (state, page))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    mimetypes.add_type("text/javascript", ".js")
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    for kind in (RequestDenied, HTTPException, RetouchError):
        app.add_exception_handler(kind, _on_error)
    app.add_middleware(HostCheck, hosts=hosts)
    return app


def _add_commands(app: FastAPI, promoter: OperatorApi, token: str | None, caches: Iterable[ViewCache]) -> None:
    async def execute(request: Request, action: Action, version: str | None = None) -> Response:
        """Execute the command if `confirm` is `version`; for a rollback if it is the champion."""
        _check_token(request, token)
        body = await _operator_request(request)
        if action == "rollback":
            version = (await asyncio.to_thread(promoter.view)).champion
        if body.confirm != version:
            raise RequestDenied(409, f"confirm: {body.confirm} was confirmed, but the version is {version or 'none'}", "not_confirmed", "confirm")
        try:
            command = OperatorCommand(action, body.confirm, body.operator, body.reason, body.to)
            return _json(200, await asyncio.to_thread(promoter.execute, command))
        finally:
            for cache in caches:
                cache.invalidate()

    @app.post("/api/versions/{version}/promote")
    async def promote(request: Request, version: str) -> Response:
        return await execute(request, "promote", version)

    @app.post("/api/versions/{version}/reject")
    async def reject(request: Request, version: str) -> Response:
        return await execute(request, "reject", version)

    @app.post("/api/rollback")
    async def rollback(request: Request) -> Response:
        return await execute(request, "rollback")

    @app.post("/api/{path:path}")
    async def no_such_command(path: str) -> Response:
        raise HTTPException(404)


def _check_token(request: Request, token: str | None) -> None:
    if token is None:
        raise RequestDenied(403, "this promoter has no operator token: set promotion.operator_token", "no_operator_token")
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secrets.compare_digest(credentials.strip().encode(), token.encode()):
        message = "the operator token is missing or wrong; it is promotion.operator_token, or in the stack's directory"
        raise RequestDenied(401, message, "invalid_token")


class HostCheck:
    """Denies requests under another host's name (DNS rebinding), and adds HEADERS to every reply. `/health` answers under any name.

    Starlette's TrustedHostMiddleware has no exception for a path, and its reply is not an `ErrorReply`.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((name.encode(), value.encode()) for name, value in HEADERS.items())]
            await send(message)

        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if scope["path"] == "/health" or hostname(host) in self._hosts:
            return await self._app(scope, receive, send_with_headers)
        denied = RequestDenied(403, "this address is not served: open the one that `retouch status` shows, or set promotion.url", "unknown_host")
        return await _error_reply(denied)(scope, receive, send_with_headers)


async def _operator_request(request: Request) -> OperatorRequest:
    try:
        return OperatorRequest.model_validate_json(await asyncio.wait_for(_body(request), BODY_WITHIN_S))
    except TimeoutError:
        raise RequestDenied(408, "the body did not arrive in time", "timeout") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param = ".".join(map(str, first["loc"])) or None
        raise RequestDenied(400, f"{param or 'body'}: {first['msg']}", "invalid_body", param) from None


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RequestDenied(413, f"a body has at most {MAX_BODY_BYTES} bytes", "too_large")
    return body


async def _on_error(request: Request, error: Exception) -> Response:
    denied = _denied(error)
    if denied.code == "failed":
        log.error("a request failed", extra={"path": request.url.path, "reason": str(error)})
    return _error_reply(denied)


def _denied(error: Exception) -> RequestDenied:
    match error:
        case RequestDenied():
            return error
        case HTTPException(status_code=status):
            return RequestDenied(status, "there is no such path or method here", "not_found")
        case CommandRefused():
            return RequestDenied(409, str(error), "refused")
        case RetryLater():
            return RequestDenied(503, str(error), "retry_later")
        case _:
            return RequestDenied(500, str(error), "failed")


def _error_reply(error: RequestDenied) -> Response:
    kind = "server_error" if error.status >= 500 else "authentication_error" if error.status in (401, 403) else "invalid_request_error"
    headers = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}}.get(error.status)
    return _json(error.status, ErrorReply(error=ApiError(message=str(error), type=kind, param=error.param, code=error.code)), headers)


def _json(status: int, content: VersionTransition | ErrorReply, headers: dict[str, str] | None = None) -> Response:
    return Response(content.model_dump_json(), status, headers, "application/json")


def hostname(authority: str) -> str:
    """The lower-case host of `HOST:PORT` or `[IPv6]:PORT`; empty for anything else."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""
