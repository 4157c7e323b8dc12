"""The page to watch promotion on, and the HTTP that operators' commands go by. What may be asked and what it does is the desk's (`operations`).

| path | what |
|---|---|
| `GET /` and its files | the page: plain HTML, CSS and JavaScript, nothing from elsewhere |
| `GET /api/state` | `Desk.view`, made at most every half second however many look |
| `GET /api/page` | the same without what the page does not show (`glance.brief`) |
| `POST /api/versions/{n}/promote`, `.../reject` | `{"operator", "reason", "confirm"}`; `confirm` repeats the version |
| `POST /api/rollback` | the same, with `to` or without; `confirm` is the champion that is given up |
| `GET /health` | this process answers |

Writing needs the operator token, as `Authorization: Bearer`; reading does where others than this machine can connect. Errors are
`{"error": {"message", "type", "param", "code"}}`. No cookies, no CORS, and only the `Host`s that `web` names, so that no other site's script reads along.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

from infra.errors import RetouchError, RetryLater
from trainer.promotion.operator_api import CommandRefused, OperatorApi
from trainer.promotion.view_cache import ViewCache, brief, finite

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

PAGE = Path(str(resources.files(__package__))) / "page"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
BODY_WITHIN_S, MAX_BODY_BYTES = 5.0, 16_384
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
#: What people write goes to terminals too, where control characters are commands.
Words = Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")
Version = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}$")]


class CommandBody(BaseModel, extra="forbid"):
    """The body of a POST. The bounds are those of schemas.promotion.Transition."""

    operator: Annotated[str, Field(min_length=1, max_length=64), Words]
    reason: Annotated[str, Field(max_length=2_000), Words] = ""
    confirm: Version
    to: Version | None = None  # of a rollback


class RequestDenied(Exception):
    """A request that is not served, and why."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def create_app(desk: OperatorApi, *, token: str | None, hosts: frozenset[str], readers_need_token: bool) -> FastAPI:
    """`hosts`: what `Host` may name. Without a token nobody writes."""
    app = FastAPI(openapi_url=None)
    state, page = ViewCache(desk.view), ViewCache(lambda: brief(desk.view()))

    def check(request: Request) -> None:
        if token is None:
            raise RequestDenied(403, "this promoter has no operator token: set promotion.operator_token", "no_operator_token")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), token.encode()):
            raise RequestDenied(401, "the operator token is missing or wrong; it is promotion.operator_token, or in the stack's directory", "invalid_token")

    async def act(request: Request, named: Callable[[CommandBody], str | None], done: Callable[[CommandBody], dict[str, Any]]) -> Response:
        """Let the desk do what is asked, if `confirm` is the version that `named` finds at stake, as far as was seen last."""
        check(request)
        wish = await _wish(request)
        at_stake = await asyncio.to_thread(named, wish)
        if wish.confirm != at_stake:
            raise RequestDenied(409, f"confirm: {wish.confirm} was confirmed, {at_stake or 'nothing'} is at stake", "not_confirmed", "confirm")
        try:
            return _json(200, await asyncio.to_thread(done, wish))
        finally:
            state.forget()
            page.forget()

    async def read(request: Request, glance: ViewCache) -> Response:
        if readers_need_token:
            check(request)
        return Response(await glance.text(), media_type="application/json")

    @app.get("/api/state")
    async def get_state(request: Request) -> Response:
        return await read(request, state)

    @app.get("/api/page")
    async def get_page(request: Request) -> Response:
        return await read(request, page)

    @app.post("/api/versions/{version}/promote")
    async def promote(request: Request, version: str) -> Response:
        return await act(request, lambda _: version, lambda wish: desk.promote(version, wish.operator, wish.reason))

    @app.post("/api/versions/{version}/reject")
    async def reject(request: Request, version: str) -> Response:
        return await act(request, lambda _: version, lambda wish: desk.reject(version, wish.operator, wish.reason))

    @app.post("/api/rollback")
    async def rollback(request: Request) -> Response:
        return await act(request, lambda _: desk.view()["champion"], lambda wish: desk.rollback(wish.to, wish.confirm, wish.operator, wish.reason))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    for file in sorted(PAGE.iterdir()):
        app.add_api_route("/" if file.name == "index.html" else f"/{file.name}", _serving(file), methods=["GET"])
    _answer_errors(app)
    app.add_middleware(SecurityHeaders, hosts=hosts)
    return app


class SecurityHeaders:
    """Turns away requests under another host's name, and puts HEADERS on every answer. Probes may ask for /health under any name."""

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
        denied = RequestDenied(403, "this address is not served: open the one that `retouch status` names, or set promotion.url", "unknown_host")
        return await _denial(denied)(scope, receive, send_with_headers)


async def _wish(request: Request) -> CommandBody:
    try:
        return CommandBody.model_validate_json(await asyncio.wait_for(_body(request), BODY_WITHIN_S))
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


def _answer_errors(app: FastAPI) -> None:
    """Each kind of error has one answer. Handlers are chosen by the nearest class."""

    async def denied(request: Request, error: Any) -> Response:
        return _denial(error)

    async def refused(request: Request, error: Any) -> Response:
        return _denial(RequestDenied(409, str(error), "refused"))

    async def later(request: Request, error: Any) -> Response:
        return _denial(RequestDenied(503, str(error), "retry_later"))

    async def failed(request: Request, error: Any) -> Response:
        log.error("a request failed", extra={"path": request.url.path, "reason": str(error)})
        return _denial(RequestDenied(500, str(error), "failed"))

    async def unknown(request: Request, error: Any) -> Response:
        return _denial(RequestDenied(error.status_code, "there is no such path or method here", "not_found"))

    for kind, handler in ((RequestDenied, denied), (CommandRefused, refused), (RetryLater, later), (RetouchError, failed), (HTTPException, unknown)):
        app.add_exception_handler(kind, handler)


def _denial(error: RequestDenied) -> Response:
    kind = "server_error" if error.status >= 500 else "authentication_error" if error.status in (401, 403) else "invalid_request_error"
    headers = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}}.get(error.status)
    return _json(error.status, {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}, headers)


def _json(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(finite(value), allow_nan=False), status, headers, "application/json")


def _serving(file: Path) -> Callable[[], Response]:
    body, media_type = file.read_bytes(), MEDIA_TYPES[file.suffix]
    return lambda: Response(body, media_type=media_type)


def hostname(authority: str) -> str:
    """Of `HOST:PORT` or `[IPv6]:PORT`, in lower case; empty where it is neither."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""
