"""Where members of the streams process run under faults: their shared index, the records that went in, and what came out of them."""

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
from schemas.outcomes import Outcome
from schemas.queries import Query
from schemas.topics import CONTEXTS, DRAFTS, FEEDBACK, INTERACTIONS, OUTCOMES, RESPONSES
from tests.support.streams_process import NOW, Platform, Streams, draft, response, running
from traffic.lag import GroupLag

BOUND_S = 60.0
#: Where a test is about the bound, and where it is not: a member that catches up on a busy machine may leave a partition aside for seconds.
STALL_S, LONG_STALL_S = 10.0, 60.0
USERS = 40  # enough for every partition


class Site:
    """A directory that members share: their index, and the files that are its faults. Remembers what must come out."""

    def __init__(self, broker: Broker, directory: Path) -> None:
        self._address, self._directory = broker.bootstrap_servers, directory
        self.platform = Platform(self._settings("observer"))
        self.told: set[str] = set()
        self.asked: set[str] = set()
        self.rated: set[str] = set()
        self.contexts: dict[str, list[tuple[str, Context]]] = defaultdict(list)  # by query, each with its `ce_id`
        self.outcomes: dict[str, list[str]] = defaultdict(list)  # by query, their `ce_id`
        self._looked_at, self._numbers = 0, itertools.count()

    @contextmanager
    def member(self, instance: str = "one", *, stall_s: float = LONG_STALL_S) -> Iterator[Streams]:
        more = {"RETOUCH_KAFKA__INSTANCE": instance, "RETOUCH_KAFKA__SESSION_TIMEOUT_MS": "6000", "RETOUCH_STREAMS__STALL_TIMEOUT_S": str(stall_s)}
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

    def tell(self, count: int) -> None:
        """Interactions of all users."""
        done = [self.platform.did(f"about {uuid.uuid4()}", user=self._user()) for _ in range(count)]
        self.told |= {str(each.interaction_id) for each in done}
        self.platform.send(INTERACTIONS, *done)

    def ask(self, count: int, *, deadline_s: float | None = None) -> list[Query]:
        """Drafts of all users' questions."""
        deadline = None if deadline_s is None else datetime.now(UTC) + timedelta(seconds=deadline_s)
        asked = [self.platform.query("the sea", user=self._user()).model_copy(update={"deadline": deadline}) for _ in range(count)]
        self.asked |= {str(query.query_id) for query in asked}
        self.platform.send(DRAFTS, *map(draft, asked))
        return asked

    def answer(self, count: int) -> list[Query]:
        """Responses to all users' questions."""
        asked = [self.platform.query("the sea", user=self._user()) for _ in range(count)]
        self.platform.send(RESPONSES, *map(response, asked))
        return asked

    def rate(self, answered: Sequence[Query]) -> None:
        """Scores for what was answered, so that an outcome must follow."""
        at, score = NOW + timedelta(minutes=1), 1.0
        ids = [{"feedback_id": uuid.uuid4(), "query_id": query.query_id} for query in answered]
        told = [Feedback(**of, tenant=query.tenant, user=query.user, score=score, occurred_at=at) for of, query in zip(ids, answered, strict=True)]
        self.rated |= {str(query.query_id) for query in answered}
        self.platform.send(FEEDBACK, *told)

    def indexed(self) -> Counter[str]:
        """How often each interaction was written to the index."""
        return Counter(row["id"] for row in self._rows())

    def writers(self) -> set[str]:
        return {row["by"] for row in self._rows()}

    def contexts_of(self, queries: Sequence[Query]) -> list[Context]:
        """One each, once all are there."""
        ids = [str(query.query_id) for query in queries]
        self.until(lambda: self.contexts.keys() >= set(ids), "every query has a context")
        return [self.contexts[query_id][0][1] for query_id in ids]

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + BOUND_S
        while not holds():
            assert time.monotonic() < deadline, f"not within {BOUND_S:g} s: {what}; {self.missing()}"
            self._look()

    def missing(self) -> dict[str, int]:
        """How much of what went in has not come out."""
        left = {"index": self.told - self.indexed().keys(), "contexts": self.asked - self.contexts.keys(), "outcomes": self.rated - self.outcomes.keys()}
        return {name: len(ids) for name, ids in left.items() if ids}

    def nothing_is_missing(self) -> None:
        """Waits until all is there and acknowledged; then every repeat has the id of the first."""
        self.until(lambda: not self.missing(), "all that went in has come out")
        with GroupLag(self._settings("observer")) as lag:
            assert lag.wait([INTERACTIONS, DRAFTS, RESPONSES, FEEDBACK], stall_s=BOUND_S)
        self._look()
        assert not any(len({ce_id for ce_id, _ in made}) > 1 for made in self.contexts.values())
        assert not any(len(set(made)) > 1 for made in self.outcomes.values())

    def repeats(self) -> int:
        made = [*self.indexed().values(), *map(len, self.contexts.values()), *map(len, self.outcomes.values())]
        return sum(made) - len(made)

    def unhandled(self) -> int:
        with GroupLag(self._settings("observer")) as lag:
            return lag.unhandled([INTERACTIONS])

    def _look(self) -> None:
        self.platform.look()
        for record in self.platform.seen[self._looked_at :]:
            if record.topic == CONTEXTS.name:
                context, envelope = read_message(Context, record.headers, record.value)
                self.contexts[str(context.draft.query.query_id)].append((envelope.id, context))
            elif record.topic == OUTCOMES.name:
                outcome, envelope = read_message(Outcome, record.headers, record.value)
                self.outcomes[str(outcome.response.query_id)].append(envelope.id)
        self._looked_at = len(self.platform.seen)

    def _rows(self) -> list[dict[str, str]]:
        """Whole rows: one that a kill cut short was not written, and its batch is handled again."""
        file = self._directory / "points.jsonl"
        rows = []
        for line in file.read_text().splitlines() if file.exists() else ():
            with suppress(ValueError):
                rows.append(json.loads(line))
        return rows

    def _settings(self, instance: str) -> Settings:
        return load(kafka={"bootstrap_servers": self._address, "instance": instance}, stack={"dir": self._directory / instance})

    def _user(self) -> str:
        """Each in turn."""
        return f"user-{next(self._numbers) % USERS}"
