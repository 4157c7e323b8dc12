"""A process that answers as a Qdrant server's REST API does, on top of the client's local mode: `python -m tests.support.qdrant_stub DIRECTORY PORT`.

Its points survive a kill. It has the requests that `streams.index.server` makes, and refuses what servers refuse with their status and text, as seen in issues
and source of qdrant/qdrant. It has no replicas, segments or quantization: it stores the layout that a collection was created with, and returns it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from infra.process.ports import free_port

START_S, STOP_S = 60.0, 30.0


@dataclass(frozen=True)
class Behaviour:
    """What the server refuses, and how it fails. Changes apply to the next request."""

    api_key: str | None = None
    read_only_key: str | None = None
    largest_limit: int | None = None  # strict mode; its collections also refuse filters on fields without an index
    largest_batch: int | None = None  # of points to write, strict mode
    largest_search_batch: int | None = None  # strict mode
    replicas_answer: bool = True
    disk_is_full: bool = False
    is_busy: bool = False
    slow_s: float = 0.0

    @property
    def is_strict(self) -> bool:
        return any(most is not None for most in (self.largest_limit, self.largest_batch, self.largest_search_batch))


class Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class QdrantStub:
    """The process, on one port over all its starts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.support.qdrant_stub", str(self._directory), str(self.port)]
        (self._directory / "ready").unlink(missing_ok=True)
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not (self._directory / "ready").exists():
            assert self._process.poll() is None and time.monotonic() < deadline, (self._directory / "log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(STOP_S)

    def creation_of(self, collection: str) -> dict[str, Any]:
        """The request that created the collection."""
        sent: dict[str, Any] = json.loads((self._directory / "layout.json").read_text())[collection]["created"]
        return sent

    def behave(self, **behaviour: Any) -> None:
        """All that is not named is as usual again."""
        write_whole(self._directory / "behaviour.json", asdict(Behaviour(**behaviour)))


@contextmanager
def qdrant_stub(directory: Path) -> Iterator[QdrantStub]:
    stub = QdrantStub(directory)
    try:
        stub.start()
        yield stub
    finally:
        stub.kill()


def write_whole(path: Path, content: Any) -> None:
    written = path.with_suffix(".new")
    written.write_text(json.dumps(content))
    written.replace(path)


class Server:
    """The handlers. `layout.json` has the request that created each collection, and its payload indexes; `aliases.json` the collection of each alias."""

    def __init__(self, directory: Path) -> None:
        from qdrant_client import AsyncQdrantClient

        self._directory = directory
        self._client = AsyncQdrantClient(path=str(directory / "points"))
        layout = directory / "layout.json"
        self._layout: dict[str, dict[str, Any]] = json.loads(layout.read_text()) if layout.exists() else {}
        aliases = directory / "aliases.json"
        self._aliases: dict[str, str] = json.loads(aliases.read_text()) if aliases.exists() else {}
        self._behaviour = Behaviour()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._answer], client_max_size=64 << 20)
        one = "/collections/{name}"
        app.add_routes(
            [
                web.get("/collections", self._list),
                web.get("/aliases", self._list_aliases),
                web.post("/collections/aliases", self._change_aliases),
                web.get(f"{one}/exists", self._exists),
                web.get(one, self._info),
                web.put(one, self._create),
                web.patch(one, self._update),
                web.delete(one, self._delete),
                web.put(f"{one}/index", self._index),
                web.put(f"{one}/points", self._upsert),
                web.post(f"{one}/points", self._retrieve),
                web.post(f"{one}/points/query/batch", self._query_batch),
                web.post(f"{one}/points/scroll", self._scroll),
                web.post(f"{one}/points/count", self._count),
            ]
        )
        return app

    @web.middleware
    async def _answer(self, request: web.Request, handler: Any) -> web.Response:
        try:
            await self._admit(request)
            result = await handler(request)
        except Refused as refused:
            headers = {"Retry-After": "1"} if refused.status == 429 else {}
            if refused.status == 401:
                return web.Response(status=401, text=refused.text)
            return web.json_response({"status": {"error": refused.text}, "time": 0.0}, status=refused.status, headers=headers)
        return web.json_response({"result": result, "status": "ok", "time": 0.0})

    async def _admit(self, request: web.Request) -> None:
        file = self._directory / "behaviour.json"
        self._behaviour = behaviour = Behaviour(**json.loads(file.read_text())) if file.exists() else Behaviour()
        await asyncio.sleep(behaviour.slow_s)
        writes, key = request.method in ("PUT", "DELETE", "PATCH") or request.path == "/collections/aliases", request.headers.get("api-key")
        if behaviour.api_key and (key is None or key not in (behaviour.api_key, behaviour.read_only_key)):
            raise Refused(401, "Invalid API key or JWT")
        if writes and behaviour.read_only_key and key == behaviour.read_only_key:
            raise Refused(403, "Forbidden: Global manage access is required")
        if behaviour.is_busy:
            raise Refused(429, "Rate limiting exceeded: Write rate limit exceeded, retry later")
        on_points = "/points" in request.path
        if on_points and not behaviour.replicas_answer:
            raise Refused(500, "Service internal error: The replica set for shard 0 on peer 1 does not have enough active replicas")
        if on_points and writes and behaviour.disk_is_full:
            raise Refused(500, "Service internal error: No space left on device: WAL buffer size exceeds available disk space")

    def _name(self, request: web.Request) -> str:
        name = self._aliases.get(request.match_info["name"], request.match_info["name"])
        if name not in self._layout:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return name

    def _check(self, name: str, limit: int | None, sent: Any) -> None:
        """Strict mode: the limit, and an index for each field of the filter."""
        if not self._behaviour.is_strict:
            return
        most = self._behaviour.largest_limit
        if most is not None and limit is not None and limit > most:
            raise Refused(400, f'Bad request: Limit exceeded {limit} > {most} for "limit". Help: Reduce the "limit" parameter to or below {most}.')
        conditions = [*(sent or {}).get("must", ()), *((sent or {}).get("must_not") or ())]
        for field in (condition["key"] for condition in conditions):
            if field not in self._layout[name]["indexes"]:
                raise Refused(400, f'Bad request: Index required but not found for "{field}". Help: Create an index for this key or use a different filter.')

    async def _list(self, request: web.Request) -> Any:
        return {"collections": [{"name": name} for name in self._layout]}

    async def _exists(self, request: web.Request) -> Any:
        name = request.match_info["name"]
        return {"exists": self._aliases.get(name, name) in self._layout}

    async def _list_aliases(self, request: web.Request) -> Any:
        return {"aliases": [{"alias_name": alias, "collection_name": name} for alias, name in self._aliases.items()]}

    async def _change_aliases(self, request: web.Request) -> Any:
        changed = dict(self._aliases)
        for action in (await request.json())["actions"]:
            if "delete_alias" in action:
                changed.pop(action["delete_alias"]["alias_name"], None)
                continue
            alias, name = action["create_alias"]["alias_name"], action["create_alias"]["collection_name"]
            if alias in self._layout:
                raise Refused(409, f"Wrong input: Collection `{alias}` already exists!")
            if name not in self._layout:
                raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
            changed[alias] = name
        self._aliases = changed
        write_whole(self._directory / "aliases.json", changed)
        return True

    async def _info(self, request: web.Request) -> Any:
        from qdrant_client import models

        name = self._name(request)
        info = (await self._client.get_collection(name)).model_dump(mode="json", exclude_none=True)
        created = self._layout[name]["created"]
        defaults = {"shard_number": 1, "replication_factor": 1, "write_consistency_factor": 1, "on_disk_payload": True}
        info["config"]["params"] |= {setting: created.get(setting) or default for setting, default in defaults.items()}
        info["config"]["params"]["on_disk_payload"] = created.get("on_disk_payload") is not False
        info["config"]["hnsw_config"] |= created.get("hnsw_config") or {}
        info["config"]["quantization_config"] = created.get("quantization_config")
        info["payload_schema"] = {field: {"data_type": kind, "points": 0} for field, kind in self._layout[name]["indexes"].items()}
        return models.CollectionInfo.model_validate(info).model_dump(mode="json", exclude_none=True)

    async def _create(self, request: web.Request) -> Any:
        from qdrant_client import models

        name, sent = request.match_info["name"], await request.json()
        if name in self._layout:
            raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
        if name in self._aliases:
            raise Refused(400, f"Wrong input: Can't create collection with name {name}. Alias with the same name already exists")
        asked = models.CreateCollection.model_validate(sent)
        await self._client.create_collection(name, vectors_config=asked.vectors, metadata=asked.metadata)
        self._layout[name] = {"created": sent, "indexes": {}}
        write_whole(self._directory / "layout.json", self._layout)
        return True

    async def _update(self, request: web.Request) -> Any:
        """The metadata alone."""
        await self._client.update_collection(self._name(request), metadata=(await request.json())["metadata"])
        return True

    async def _delete(self, request: web.Request) -> Any:
        name = self._name(request)
        await self._client.delete_collection(name)
        del self._layout[name]
        write_whole(self._directory / "layout.json", self._layout)
        return True

    async def _index(self, request: web.Request) -> Any:
        sent, schema = await request.json(), self._layout[self._name(request)]["indexes"]
        kind = sent["field_schema"]
        schema[sent["field_name"]] = kind if isinstance(kind, str) else kind["type"]
        write_whole(self._directory / "layout.json", self._layout)
        return {"operation_id": 0, "status": "completed"}

    async def _upsert(self, request: web.Request) -> Any:
        from qdrant_client import models

        name, asked = self._name(request), models.PointsList.model_validate(await request.json())
        most = self._behaviour.largest_batch
        if most is not None and len(asked.points) > most:
            raise Refused(400, f'Bad request: Limit exceeded {len(asked.points)} > {most} for "upsert". Help: Reduce the number of points.')
        await self._client.upsert(name, points=asked.points)
        return {"operation_id": 0, "status": "completed"}

    async def _retrieve(self, request: web.Request) -> Any:
        name, sent = self._name(request), await request.json()
        return [dumped(point) for point in await self._client.retrieve(name, ids=sent["ids"], with_payload=True, with_vectors=False)]

    async def _query_batch(self, request: web.Request) -> Any:
        from qdrant_client import models

        name, sent = self._name(request), await request.json()
        asked, most = models.QueryRequestBatch.model_validate(sent).searches, self._behaviour.largest_search_batch
        if most is not None and len(asked) > most:
            raise Refused(400, f'Bad request: Limit exceeded {len(asked)} > {most} for "search batch size". Help: Reduce the number of searches.')
        for one, each in zip(asked, sent["searches"], strict=True):
            self._check(name, one.limit, each.get("filter"))
        return [dumped(found) for found in await self._client.query_batch_points(name, requests=asked)]

    async def _scroll(self, request: web.Request) -> Any:
        from qdrant_client import models

        name, sent = self._name(request), await request.json()
        asked = models.ScrollRequest.model_validate(sent)
        self._check(name, asked.limit, sent.get("filter"))
        options = {"scroll_filter": asked.filter, "limit": asked.limit, "order_by": asked.order_by, "offset": asked.offset}
        points, following = await self._client.scroll(name, **options, with_payload=True)
        return {"points": [dumped(point) for point in points], "next_page_offset": following}

    async def _count(self, request: web.Request) -> Any:
        from qdrant_client import models

        name, sent = self._name(request), await request.json()
        self._check(name, None, sent.get("filter"))
        return dumped(await self._client.count(name, count_filter=models.CountRequest.model_validate(sent).filter, exact=True))


def dumped(answer: Any) -> Any:
    return answer.model_dump(mode="json", exclude_none=True)


async def serve(directory: Path, port: int) -> None:
    runner = web.AppRunner(Server(directory).app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    (directory / "ready").touch()
    await asyncio.Event().wait()


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning)  # local mode is slow, and has no payload indexes
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
