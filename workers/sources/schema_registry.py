"""Client of a schema registry with Confluent's REST API: `GET /schemas/ids/{id}`, and the schemas that one refers to. Each schema is asked once.

A record in Confluent's wire format begins with a zero byte and the schema's id in four bytes. Confluent's, Karapace's, Apicurio's (`/apis/ccompat/v7`) and
Redpanda's registry have this API.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from pydantic_core import from_json

from infra.errors import DependencyBlocked, DependencyUnavailable, PoisonMessage
from infra.settings.platform_topics import SourcesSettings
from infra.telemetry.metrics import RetryReason

log = logging.getLogger(__name__)

#: The registry's own error codes for what is not there (HTTP 404): subject, version, schema.
NOT_THERE = (40401, 40402, 40403)
#: Schemas that one schema refers to, in all.
MAX_REFERENCES = 200
AWAY_S = 2.0


@dataclass(frozen=True)
class RegisteredSchema:
    """`kind` is AVRO, PROTOBUF or JSON. `references`: what it refers to, by the name that it uses, before itself."""

    kind: str
    text: str
    references: tuple[tuple[str, RegisteredSchema], ...] = ()


class SchemaRegistry:
    """Use as an async context manager, on one event loop; calls may overlap.

    Raises PoisonMessage for an id that the registry does not have, DependencyUnavailable while it is away, DependencyBlocked while it refuses us.
    """

    def __init__(self, settings: SourcesSettings, on_blocked: Callable[[str | None], None] = lambda problem: None) -> None:
        """`on_blocked` gets the reason why no new schema can be read, and None once one is."""
        self._settings = settings
        self._on_blocked = on_blocked
        self._problem: str | None = None
        self._base = (settings.registry_url or "").rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        settings = self._settings
        username, password = settings.registry_username, settings.registry_password
        headers = {}
        if username and password:
            headers["Authorization"] = aiohttp.encode_basic_auth(username, password.get_secret_value(), "utf-8")
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=settings.registry_cafile), limit=8)
        timeout = aiohttp.ClientTimeout(total=settings.registry_timeout_s)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    async def schema(self, id: int) -> RegisteredSchema:
        """The schema of this id with everything that it refers to."""
        answer = await self._get(f"/schemas/ids/{id}", f"schema {id}")
        return await self._with_references(answer, [MAX_REFERENCES])

    async def _with_references(self, answer: dict[str, Any], left: list[int]) -> RegisteredSchema:
        """`left`: how many more references are read."""
        references = []
        for each in answer.get("references") or ():
            left[0] -= 1
            if left[0] < 0:
                raise PoisonMessage(f"its schema refers to more than {MAX_REFERENCES} others, or to itself")
            path = f"/subjects/{quote(str(each['subject']), safe='')}/versions/{int(each['version'])}"
            referred = await self._get(path, f"version {each['version']} of subject {each['subject']}")
            references.append((str(each["name"]), await self._with_references(referred, left)))
        return RegisteredSchema(answer.get("schemaType", "AVRO"), answer["schema"], tuple(references))

    async def _get(self, path: str, what: str) -> dict[str, Any]:
        assert self._session is not None
        try:
            try:
                async with self._session.get(self._base + path, allow_redirects=False) as response:
                    answer = self._read(response.status, await response.read(), what)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise self._away(type(error).__name__) from error
        except DependencyUnavailable as error:
            self._report(str(error))
            raise
        self._report(None)
        return answer

    def _report(self, problem: str | None) -> None:
        """Log each change once."""
        if problem != self._problem:
            log.warning("schemas cannot be read", extra={"reason": problem}) if problem else log.info("schemas can be read again")
            self._problem = problem
        self._on_blocked(problem)

    def _read(self, status: int, body: bytes, what: str) -> dict[str, Any]:
        try:
            answer = from_json(body)
        except ValueError:
            answer = None
        answer = answer if isinstance(answer, dict) else {}
        if status == 200 and isinstance(answer.get("schema"), str):
            return answer
        if status == 404 and answer.get("error_code") in NOT_THERE:
            raise PoisonMessage(f"the schema registry has no {what}")
        if status in (401, 403):
            raise self._blocked(f"answers {status}: check sources.registry_username and sources.registry_password, and what that user may read")
        if status < 500 and status not in (408, 429):
            raise self._blocked(f"answers {status}, and not as a schema registry does: check sources.registry_url")
        raise self._away(f"HTTP {status}")

    def _away(self, reason: str) -> DependencyUnavailable:
        return DependencyUnavailable(f"the schema registry at {self._base} does not answer ({reason})", AWAY_S, RetryReason.SCHEMA_REGISTRY)

    def _blocked(self, reason: str) -> DependencyBlocked:
        return DependencyBlocked(f"the schema registry at {self._base} {reason}", AWAY_S, RetryReason.SCHEMA_REGISTRY)
