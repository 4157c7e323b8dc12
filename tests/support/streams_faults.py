"""Members of the streams process under faults, with a shared index. Keeps the input records and the output for comparison."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from infra.local.broker import Broker
from infra.settings import Settings, load
from schemas.contexts import Context
from schemas.envelope import read_message
from schemas.feedback import Feedback
from schemas.interactions import Interaction
from schemas.outcomes import Outcome
from schemas.positions import Source
from schemas.queries import Query
from schemas.topics import CONTEXTS, DRAFTS, FEEDBACK, INTERACTIONS, OUTCOMES, RESPONSES
from tests.support.streams_process import NOW, StreamsClient, StreamsProcess, draft, response, running
from traffic.lag import GroupLag

#: A bound for a busy machine: under load the members work off minutes of input.
BOUND_S = 240.0
#: The longest `retrieval.after_timeout_s`.
AFTER_S = 60.0
#: Stall timeouts of tests about stalls, and of all others: on a busy machine a member that catches up may not read a partition for seconds.
STALL_S, LONG_STALL_S = 10.0, 60.0
USERS = 40  # enough for every partition


class StreamsGroup:
    """Members over one directory, which holds their index and a file per active fault. `sent_*` are the ids of the input."""

    def __init__(self, broker: Broker, directory: Path) -> None:
        self._address, self._directory = broker.bootstrap_servers, directory
        self.client = StreamsClient(self._settings("observer"))
        self.sent_interactions: set[str] = set()
        self.sent_drafts: set[str] = set()
        self.sent_feedback_queries: set[str] = set()
        self.contexts: dict[str, list[tuple[str, Context]]] = defaultdict(list)  # `ce_id` and message, by query
        self.outcomes: dict[str, list[str]] = defaultdict(list)  # `ce_id`, by query
        self._read_to, self._numbers = 0, itertools.count()

    @contextmanager
    def member(self, instance: str = "one", *, stall_s: float = LONG_STALL_S, after_timeout_s: float = 5.0) -> Iterator[StreamsProcess]:
        more = {"RETOUCH_KAFKA__INSTANCE": instance, "RETOUCH_KAFKA__SESSION_TIMEOUT_MS": "6000", "RETOUCH_STREAMS__STALL_TIMEOUT_S": str(stall_s)}
        more["RETOUCH_RETRIEVAL__AFTER_TIMEOUT_S"] = str(after_timeout_s)
        with running(self._settings(instance), "tests.support.streams_member", **more) as process:
            yield process

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        file = self._directory / name
        file.touch()
        try:
            yield
        finally:
            file.unlink()

    def send_interactions(self, count: int) -> None:
        """Sends interactions, of each user in turn."""
        interactions = [self.client.interaction(f"about {uuid.uuid4()}", user=self._user()) for _ in range(count)]
        self.sent_interactions |= {str(interaction.interaction_id) for interaction in interactions}
        self.client.send(INTERACTIONS, *interactions)

    def send_interaction(self) -> tuple[Interaction, Source]:
        """Sends an interaction of the next user, and returns its position."""
        interaction = self.client.interaction(f"about {uuid.uuid4()}", user=self._user())
        self.sent_interactions.add(str(interaction.interaction_id))
        return interaction, self.client.send_to(INTERACTIONS, interaction)

    def send_draft_after(self, user: str, after: Source, *, deadline_s: float | None = None) -> Query:
        """Sends a draft whose query names an event."""
        deadline = None if deadline_s is None else datetime.now(UTC) + timedelta(seconds=deadline_s)
        query = self.client.query("the sea", user=user).model_copy(update={"deadline": deadline, "after": after})
        self.sent_drafts.add(str(query.query_id))
        self.client.send(DRAFTS, draft(query))
        return query

    def send_drafts(self, count: int, *, deadline_s: float | None = None) -> list[Query]:
        """Sends drafts, of each user in turn. Returns their queries."""
        deadline = None if deadline_s is None else datetime.now(UTC) + timedelta(seconds=deadline_s)
        queries = [self.client.query("the sea", user=self._user()).model_copy(update={"deadline": deadline}) for _ in range(count)]
        self.sent_drafts |= {str(query.query_id) for query in queries}
        self.client.send(DRAFTS, *map(draft, queries))
        return queries

    def send_responses(self, count: int) -> list[Query]:
        """Sends responses, to each user in turn. Returns their queries."""
        queries = [self.client.query("the sea", user=self._user()) for _ in range(count)]
        self.client.send(RESPONSES, *map(response, queries))
        return queries

    def send_feedback(self, queries: Sequence[Query]) -> None:
        """Sends a score for each query. With its response it must become an outcome."""
        at, score = NOW + timedelta(minutes=1), 1.0
        ids = [{"feedback_id": uuid.uuid4(), "query_id": query.query_id} for query in queries]
        scores = [Feedback(**pair, tenant=query.tenant, user=query.user, score=score, occurred_at=at) for pair, query in zip(ids, queries, strict=True)]
        self.sent_feedback_queries |= {str(query.query_id) for query in queries}
        self.client.send(FEEDBACK, *scores)

    def index_writes(self) -> Counter[str]:
        """Number of writes to the index, by interaction."""
        return Counter(row["id"] for row in self._rows())

    def writers(self) -> set[str]:
        return {row["by"] for row in self._rows()}

    def contexts_of(self, queries: Sequence[Query]) -> list[Context]:
        """Waits for a context of every query; returns the first of each."""
        ids = [str(query.query_id) for query in queries]
        self.wait_until(lambda: self.contexts.keys() >= set(ids), "every query has a context")
        return [self.contexts[query_id][0][1] for query_id in ids]

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + BOUND_S
        while not condition():
            assert time.monotonic() < deadline, f"not within {BOUND_S:g} s: {what}; {self.missing()}"
            self._read_topics()

    def missing(self) -> dict[str, int]:
        """Number of input records without their output."""
        index = self.sent_interactions - self.index_writes().keys()
        missing = {"index": index, "contexts": self.sent_drafts - self.contexts.keys(), "outcomes": self.missing_outcomes()}
        return {name: len(ids) for name, ids in missing.items() if ids}

    def missing_outcomes(self) -> set[str]:
        return self.sent_feedback_queries - self.outcomes.keys()

    def wait_for_all_output(self) -> None:
        """Waits until all output is there and all input is committed. Then every repeat must have the id of the first."""
        self.wait_until(lambda: not self.missing(), "all input has its output")
        with GroupLag(self._settings("observer")) as lag:
            assert lag.wait([INTERACTIONS, DRAFTS, RESPONSES, FEEDBACK], stall_s=BOUND_S)
        self._read_topics()
        assert not any(len({ce_id for ce_id, _ in contexts}) > 1 for contexts in self.contexts.values())
        assert not any(len(set(ce_ids)) > 1 for ce_ids in self.outcomes.values())

    def repeats(self) -> int:
        counts = [*self.index_writes().values(), *map(len, self.contexts.values()), *map(len, self.outcomes.values())]
        return sum(counts) - len(counts)

    def unhandled(self) -> int:
        with GroupLag(self._settings("observer")) as lag:
            return lag.unhandled([INTERACTIONS])

    def _read_topics(self) -> None:
        self.client.poll()
        for record in self.client.seen[self._read_to :]:
            if record.topic == CONTEXTS.name:
                context, envelope = read_message(Context, record.headers, record.value)
                self.contexts[str(context.draft.query.query_id)].append((envelope.id, context))
            elif record.topic == OUTCOMES.name:
                outcome, envelope = read_message(Outcome, record.headers, record.value)
                self.outcomes[str(outcome.response.query_id)].append(envelope.id)
        self._read_to = len(self.client.seen)

    def _rows(self) -> list[dict[str, str]]:
        """Complete rows. A kill may truncate a row; its batch is then handled again."""
        file = self._directory / "points.jsonl"
        rows = []
        for line in file.read_text().splitlines() if file.exists() else ():
            with suppress(ValueError):
                rows.append(json.loads(line))
        return rows

    def _settings(self, instance: str) -> Settings:
        return load(kafka={"bootstrap_servers": self._address, "instance": instance}, stack={"dir": self._directory / instance})

    def _user(self) -> str:
        """The next user, in turn."""
        return f"user-{next(self._numbers) % USERS}"
