"""A reader at read_committed, independent of everything it measures: it joins no group, keeps what it is given with the time, and parses nothing.

One long poll at a time, as any consumer of answers does, and nothing else in between: what a record waits here, it waits everywhere.
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
    """Reads `topics` from where they end now, on a thread of its own, until the block is left."""

    def __init__(self, settings: Settings, *topics: str) -> None:
        self._settings = settings
        self._topics = topics
        self._raws: dict[str, list[ReadRecord]] = {topic: [] for topic in topics}
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def raws(self, topic: str) -> list[ReadRecord]:
        """What has been read so far. A copy."""
        return list(self._raws[topic])

    @property
    def count(self) -> int:
        """Records of all topics together."""
        return sum(map(len, self._raws.values()))

    def wait_for(self, count: int, timeout_s: float) -> bool:
        """Whether there were so many records, of all topics together, within the bound. Raises CannotContinue when the reader has failed."""
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
                        self._raws[record.topic].append(ReadRecord(at, record.partition, record.offset, record.value))
        except RetryLater as error:  # the outermost frame of this thread; `wait_for` raises it where somebody sees it
            self._failure = error
            self._ready.set()
