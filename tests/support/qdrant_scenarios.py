"""Streams processes on a Qdrant server: the stub, or the server that QDRANT_URL names. Counts on the server what they have written."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.local.broker import Broker
from infra.settings import Settings, load
from schemas.contexts import Context, RetrievalStatus
from schemas.topics import DRAFTS, INTERACTIONS
from streams.index.tenant_filter import USER
from tests.support.qdrant_stub import QdrantStub
from tests.support.streams_process import StreamsClient, StreamsProcess, draft

WITHIN_S = 120.0
SESSION_MS = 6_000
USERS = 12  # enough for every partition


class QdrantScenario:
    """One collection and one consumer group. `stub`: None if QDRANT_URL names a server. Close it."""

    def __init__(self, broker: Broker, directory: Path) -> None:
        self._directory, self._broker = directory, broker
        self._prefix = f"{uuid.uuid4().hex[:8]}."
        self.url = os.environ.get("QDRANT_URL") or ""
        self.stub: QdrantStub | None = None
        if not self.url:
            self.stub = QdrantStub(directory / "qdrant")
            self.stub.start()
            self.url = self.stub.url
        self.collection = f"retouch-scenario-{uuid.uuid4().hex[:8]}"
        self.client = StreamsClient(self.settings("observer"))
        self.sent = 0
        self._users = [f"{self.client.user}-{n}" for n in range(USERS)]

    def close(self) -> None:
        self.client.close()
        if self.stub is None:
            self.drop_collections()
        else:
            self.stub.kill()

    def only_stub(self, what: str) -> QdrantStub:
        """The stub; skips the test if there is another server."""
        if self.stub is None:
            pytest.skip(f"the server at QDRANT_URL cannot be {what} by a test")
        return self.stub

    def settings(self, host: str) -> Settings:
        kafka = {"bootstrap_servers": self._broker.bootstrap_servers, "instance": host, "group_prefix": self._prefix, "session_timeout_ms": SESSION_MS}
        return load(kafka=kafka, stack={"dir": self._directory / host})

    @contextmanager
    def process(self, host: str = "one", **index: str) -> Iterator[StreamsProcess]:
        """Not started. `index`: more settings of the section."""
        environment = {
            "RETOUCH_KAFKA__INSTANCE": host,
            "RETOUCH_KAFKA__GROUP_PREFIX": self._prefix,
            "RETOUCH_KAFKA__SESSION_TIMEOUT_MS": str(SESSION_MS),
            "RETOUCH_INDEX__URL": self.url,
            "RETOUCH_INDEX__COLLECTION": self.collection,
        } | {f"RETOUCH_INDEX__{name.upper()}": value for name, value in index.items()}
        process = StreamsProcess(self.settings(host), "tests.support.small_streams", **environment)
        try:
            yield process
        finally:
            process.end()

    def send(self, count: int) -> None:
        """Interactions, of each user in turn."""
        users = (self._users[(self.sent + n) % USERS] for n in range(count))
        self.client.send(INTERACTIONS, *(self.client.interaction(f"about {uuid.uuid4()}", user=user) for user in users))
        self.sent += count

    def contexts(self, users: int = 1) -> list[Context]:
        """Answers to a new draft of each of the first users."""
        queries = [self.client.query("the sea", user=user) for user in self._users[:users]]
        self.client.send(DRAFTS, *map(draft, queries))
        return [self.client.context_of(query) for query in queries]

    def wait_for_retrieval(self, status: RetrievalStatus) -> None:
        self.wait_until(lambda: self.contexts()[0].retrieval is status, f"a context with the status {status}")

    def wait_until_indexed(self) -> None:
        self.wait_until(lambda: self.indexed() == self.sent, "the server has every interaction")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, f"not within {WITHIN_S:g} s: {what}"
            time.sleep(0.1)

    def indexed(self) -> int:
        """Number of own points on the server. 0 without the collection."""
        from qdrant_client import models

        own = models.Filter(must=[models.FieldCondition(key=USER, match=models.MatchAny(any=self._users))])
        with self.admin() as admin:
            return int(admin.count(self.collection, count_filter=own, exact=True).count) if admin.collection_exists(self.collection) else 0

    def drop_collections(self) -> None:
        with self.admin() as admin:
            for collection in self._collections():
                if admin.collection_exists(collection):
                    admin.delete_collection(collection)

    def be_strict(self, largest_limit: int) -> None:
        """Strict mode: this limit of a search, and no filters on fields without an index."""
        from qdrant_client import models

        if self.stub is not None:
            self.stub.behave(largest_limit=largest_limit)
            return
        strict = models.StrictModeConfig(enabled=True, max_query_limit=largest_limit, unindexed_filtering_retrieve=False, unindexed_filtering_update=False)
        with self.admin() as admin:
            for collection in self._collections():
                admin.update_collection(collection, strict_mode_config=strict)

    @contextmanager
    def aliases(self, alias: str, *others: str) -> Iterator[None]:
        """`alias`, and the same with the profiles' suffix, lead to the scenario's collections. Deletes both at the end, and the collections `others`."""
        from qdrant_client import models

        pairs = [(f"{alias}{collection.removeprefix(self.collection)}", collection) for collection in self._collections()]
        with self.admin() as admin:
            made = [models.CreateAlias(alias_name=name, collection_name=collection) for name, collection in pairs]
            admin.update_collection_aliases([models.CreateAliasOperation(create_alias=each) for each in made])
            try:
                yield
            finally:
                gone = [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name)) for name, _ in pairs]
                admin.update_collection_aliases(gone)
                for collection in others:
                    admin.delete_collection(collection)
                    admin.delete_collection(f"{collection}-profiles")

    @contextmanager
    def admin(self) -> Iterator[Any]:
        from qdrant_client import QdrantClient

        client = QdrantClient(url=self.url, check_compatibility=False, timeout=60)
        try:
            yield client
        finally:
            client.close()

    def _collections(self) -> Sequence[str]:
        return self.collection, f"{self.collection}-profiles"
