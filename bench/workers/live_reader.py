"""A reader at read_committed, independent of the measured system: it joins no group, keeps each record with its time, and parses nothing.

It only long-polls, like any consumer of answers, so it sees a record as early as any other consumer.
"""

from __future__ import annotations

import threading
import time
from typing import Self

from bench.workers.answers import ReadRecord
from infra.errors import CannotContinue, RetryLater
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings

POLL_S = 0.2
CLOSE_S = 10.0


class LiveReader:
    """Reads `topics` from their present ends, on its own thread, until the end of the block."""

    def __init__(self, settings: Settings, *topics: str) -> None:
        self._settings = settings
        self._topics = topics
        self._records: dict[str, list[ReadRecord]] = {topic: [] for topic in topics}
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def records_of(self, topic: str) -> list[ReadRecord]:
        """A copy of the records read so far."""
        return list(self._records[topic])

    @property
    def count(self) -> int:
        """Number of records of all topics."""
        return sum(map(len, self._records.values()))

    def wait_for(self, count: int, timeout_s: float) -> bool:
        """Returns whether `count` records, of all topics, arrived within `timeout_s`. Raises CannotContinue if the reader has failed."""
        deadline = time.monotonic() + timeout_s
        while self.count < count:
            if self._failure is not None:
                raise CannotContinue(f"the reader of {', '.join(self._topics)} failed: {type(self._failure).__name__}") from self._failure
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(20) or self._failure:
            self._stop.set()
            raise CannotContinue(f"no reader of {', '.join(self._topics)} within 20 s") from self._failure
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            with TopicReader(self._settings, "bench-watch", max_poll_records=2000) as reader:
                reader.follow(*self._topics, from_end=True)
                self._ready.set()
                while not self._stop.is_set():
                    records = reader.poll(POLL_S)
                    at = time.time()
                    for record in records:
                        self._records[record.topic].append(ReadRecord(at, record.partition, record.offset, record.value))
        except RetryLater as error:  # outermost frame of this thread; `wait_for` raises it
            self._failure = error
            self._ready.set()
