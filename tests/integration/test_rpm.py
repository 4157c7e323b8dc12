"""RPM on a real broker: interactions become features, factors and reasoning, and a query is answered with them, though the profiles worker is killed."""

from __future__ import annotations

import signal
import time
import uuid
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.ask import request
from cli.profile import as_data
from cli.profile import request as request_profile
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
from tests.support.openai_server import OpenAiServer, ScriptedAnswer, completion, serving
from tests.support.streams_process import StreamsClient, StreamsProcess, running
from traffic.lag import GroupLag

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

WAIT_S = 120.0
SUBJECTS = ("a stormy sea and brave sailors", "a clumsy robot", "a talking dog in a small town")
ITEMS = 90


def answer(body: dict[str, Any]) -> ScriptedAnswer:
    return completion("Reasoning: as before.\nAnswer: drama" if "Factors of the user" in body["messages"][0]["content"] else "comedy")


class Member:
    """One user, and the processes that answer."""

    def __init__(self, settings: Settings, folder: Path, endpoint: OpenAiServer, stack: ExitStack) -> None:
        self.settings, self._folder, self._endpoint, self._stack = settings, folder, endpoint, stack
        self.user = f"user-{uuid.uuid4().hex[:8]}"
        self._client = StreamsClient(settings)
        stack.callback(self._client.close)

    def process(self, module: str) -> StreamsProcess:
        own = load(kafka={"bootstrap_servers": self.settings.bootstrap_servers()}, stack={"dir": self._folder / module.split()[-1]})
        environment = {"OPENAI_BASE_URL": self._endpoint.url, "RETOUCH_BASE__PROMPT_STYLE": "paper", "RETOUCH_PROFILES__CONCURRENCY": "2"}
        return self._stack.enter_context(running(own, module, RETOUCH_KAFKA__SESSION_TIMEOUT_MS="6000", **environment))

    def act(self) -> None:
        start = datetime.now(UTC) - timedelta(days=90)
        for number in range(ITEMS):
            item = Interaction.observed(
                tenant="acme",
                user=self.user,
                source_id=number,
                domain="movie_tag",
                content=f"A film about {SUBJECTS[number % len(SUBJECTS)]}.",
                response=("drama", "comedy", "comedy")[number % len(SUBJECTS)],
                occurred_at=start + timedelta(days=number),
            )
            self._client.send(INTERACTIONS, item)
        with GroupLag(self.settings) as lag:  # the first lookup publishes the tasks of the items that are indexed by then
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
            choice, reads = StrategyChoice(strategy=Strategy.RPM), Reads(factors=True)
            lookup = Lookup(query=self.query(), choice=choice, reads=reads, purpose=LookupPurpose.INSPECT)
            self._client.send(LOOKUPS, lookup)
            (found,) = self._client.retrievals_of(lookup)
            if found.factors and found.factors.items == ITEMS:
                return found
            assert time.monotonic() < until, f"{found.factors.items if found.factors else 0} of {ITEMS} items are counted"
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
        fields = {"tenant": "acme", "user": self.user, "domain": "movie_tag", "options": ("comedy", "drama"), "strategy": Strategy.RPM}
        return Query(query_id=uuid.uuid4(), **fields, text="Brave sailors cross a stormy sea.", asked_at=datetime.now(UTC))


def test_rpm_answers_with_factors_though_the_profiles_worker_is_killed(settings: Settings, tmp_path: Path) -> None:
    with serving(answer) as endpoint, ExitStack() as stack:
        member = Member(settings, tmp_path, endpoint, stack)
        others = [member.process(module) for module in ("streams", "workers base", "workers strategies")]
        member.act()
        assert member.ask_until(ResponseStatus.NO_FACTORS).answer == "comedy"
        worker = member.process("workers profiles")
        member.entries(at_least=1)
        assert worker.stop(signal.SIGKILL) == -signal.SIGKILL
        worker.start()

        found = member.counted()
        assert found.factors is not None
        assert {factor.items for factor in found.factors.factors if "sea" in factor.label} == {ITEMS // len(SUBJECTS)}
        ids = Counter(entry.entry_id for entry in member.entries(at_least=2 * ITEMS))
        assert set(ids.values()) == {1} and len(ids) == 2 * ITEMS

        assert others[0].stop(signal.SIGKILL) == -signal.SIGKILL
        others[0].start()
        assert member.counted().factors == found.factors
        shown = as_data(request_profile(settings, member.query(), WAIT_S))
        assert (shown["items"], shown["statistics_version"], shown["summary"]) == (ITEMS, found.factors.version, None)
        response = member.ask_until(ResponseStatus.PERSONALIZED)
        assert (response.answer, response.reasoning) == ("drama", "as before.")
        assert (response.provenance.answered_by, response.provenance.k) == (None, 3)
        prompt = next(body["messages"][0]["content"] for body in reversed(endpoint.requests) if "Factors of the user" in body["messages"][0]["content"])
        assert "drama 100 %" in prompt and prompt.count("Reasoning: ") == 3 and prompt.count("stormy sea") >= 3
        for process in (*others, worker):
            assert "sailors" not in process.log(), "a user's text is in the log"
