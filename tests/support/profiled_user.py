"""One user with a history on a real broker, the processes that answer, and what they wrote about the user."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cli.ask import request
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings, load
from schemas.envelope import read_message
from schemas.interactions import Interaction
from schemas.lookups import Lookup, LookupPurpose, Reads, Retrieval
from schemas.profiles import ProfileEntry
from schemas.queries import Query
from schemas.responses import Response, ResponseStatus
from schemas.strategies import Strategy, StrategyChoice
from schemas.topics import INTERACTIONS, LOOKUPS, PROFILES
from tests.support.openai_server import OpenAiServer
from tests.support.streams_process import StreamsClient, StreamsProcess, running
from traffic.lag import GroupLag

#: Bound of each wait. A tenth of it is enough.
WAIT_S = 120.0
SUBJECTS = ("a stormy sea and brave sailors", "a clumsy robot", "a talking dog in a small town")
LABELS = ("drama", "comedy", "comedy")


class ProfiledUser:
    """The user's queries name `strategy`. `items`: size of the history, a day apart: a third each of drama about SUBJECTS[0] and comedy about the others."""

    def __init__(self, settings: Settings, folder: Path, endpoint: OpenAiServer, stack: ExitStack, strategy: Strategy, items: int) -> None:
        self.settings, self._folder, self._endpoint, self._stack = settings, folder, endpoint, stack
        self.strategy, self.items = strategy, items
        self.user = f"user-{uuid.uuid4().hex[:8]}"
        self._client = StreamsClient(settings)
        stack.callback(self._client.close)

    def process(self, module: str) -> StreamsProcess:
        """A ready `python -m MODULE`. It is killed at the end of the stack."""
        own = load(kafka={"bootstrap_servers": self.settings.bootstrap_servers()}, stack={"dir": self._folder / module.split()[-1]})
        environment = {"OPENAI_BASE_URL": self._endpoint.url, "RETOUCH_BASE__PROMPT_STYLE": "paper", "RETOUCH_PROFILES__CONCURRENCY": "2"}
        return self._stack.enter_context(running(own, module, RETOUCH_KAFKA__SESSION_TIMEOUT_MS="6000", **environment))

    def act(self) -> None:
        """Sends the history, and waits until it is indexed: the first lookup publishes tasks of the items that are there by then."""
        start = datetime.now(UTC) - timedelta(days=self.items)
        for number in range(self.items):
            item = Interaction.observed(
                tenant="acme",
                user=self.user,
                source_id=number,
                domain="movie_tag",
                content=f"A film about {SUBJECTS[number % len(SUBJECTS)]}.",
                response=LABELS[number % len(SUBJECTS)],
                occurred_at=start + timedelta(days=number),
            )
            self._client.send(INTERACTIONS, item)
        with GroupLag(self.settings) as lag:
            lag.wait([INTERACTIONS], stall_s=WAIT_S)

    def ask(self) -> Response:
        return request(self.settings, self.query(), WAIT_S)

    def ask_until(self, status: ResponseStatus) -> Response:
        until = time.monotonic() + WAIT_S
        while (response := self.ask()).status is not status:
            assert time.monotonic() < until, f"still {response.status}"
            time.sleep(0.5)
        return response

    def counted(self) -> Retrieval:
        """What a person sees once all items have features."""
        until = time.monotonic() + WAIT_S
        while True:
            choice, reads = StrategyChoice(strategy=self.strategy), Reads(factors=True)
            lookup = Lookup(query=self.query(), choice=choice, reads=reads, purpose=LookupPurpose.INSPECT)
            self._client.send(LOOKUPS, lookup)
            (found,) = self._client.retrievals_of(lookup)
            if found.factors and found.factors.items == self.items:
                return found
            assert time.monotonic() < until, f"{found.factors.items if found.factors else 0} of {self.items} items are counted"
            time.sleep(0.5)

    def entries(self, at_least: int) -> list[ProfileEntry]:
        """The user's entries on the topic, once there are so many."""
        until, found = time.monotonic() + WAIT_S, list[ProfileEntry]()
        with TopicReader(self.settings, "test-profiles") as reader:
            reader.follow(PROFILES.name)
            while len(found) < at_least:
                assert time.monotonic() < until, f"{len(found)} of {at_least} entries"
                read = [read_message(ProfileEntry, record.headers, record.value)[0] for record in reader.poll(0.2)]
                found += [entry for entry in read if entry.user == self.user]
        return found

    def query(self) -> Query:
        fields = {"tenant": "acme", "user": self.user, "domain": "movie_tag", "options": ("comedy", "drama"), "strategy": self.strategy}
        return Query(query_id=uuid.uuid4(), **fields, text="Brave sailors cross a stormy sea.", asked_at=datetime.now(UTC))

    def prompts(self) -> Iterator[str]:
        """The prompts that the endpoint got, newest first."""
        return (body["messages"][0]["content"] for body in reversed(self._endpoint.requests))
