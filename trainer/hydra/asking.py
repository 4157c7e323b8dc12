"""Questions to the base model, which is a black box: many at once, in a fixed order of answers, and each at most once over all tries of a run."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from schemas.prompts import ChatTurn
from trainer.interruption import check_stop


class Question(NamedTuple):
    """One request: a chat that ends with a user's turn."""

    turns: tuple[ChatTurn, ...]
    n: int
    temperature: float
    max_tokens: int  # of one answer


class Ask(Protocol):
    """The base model. Thread-safe."""

    def __call__(self, turns: Sequence[ChatTurn], n: int, temperature: float, max_tokens: int) -> Sequence[str]:
        """`n` answers of at most `max_tokens`; none if the model refuses this prompt for good. Blocks. Raises RetryLater if the model is away."""


def ask_all(ask: Ask, questions: Sequence[Question], concurrency: int, stop: threading.Event) -> Iterator[Sequence[str]]:
    """The answers to each question, in order; `concurrency` at a time. Raises Interrupted when `stop` is set, and what `ask` raises.

    Stops as soon as one call fails: the calls that run are finished, no other is made.
    """
    waiting = iter(questions)
    with ThreadPoolExecutor(concurrency, "ask") as threads:
        running = [threads.submit(ask, *question) for question in islice(waiting, 2 * concurrency)]
        try:
            while running:
                check_stop(stop)
                yield running.pop(0).result()
                running += [threads.submit(ask, *question) for question in islice(waiting, 1)]
        finally:
            for future in running:
                future.cancel()


class StoredAnswers:
    """An `Ask` that appends every answer to a JSON Lines file and reads it from there the next time, as after a kill. Delete the file with its run.

    The file holds digests of questions and the model's answers. A line that was cut off is asked again.
    """

    def __init__(self, ask: Ask, path: Path, model: str) -> None:
        self._ask, self._path, self._model = ask, path, model
        self._lock = threading.Lock()
        self._answers = dict(_read(path))
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, turns: Sequence[ChatTurn], n: int, temperature: float, max_tokens: int) -> Sequence[str]:
        key = hashlib.sha256(json.dumps([self._model, turns, n, temperature, max_tokens]).encode()).hexdigest()
        with self._lock:
            answers = self._answers.get(key)
        if answers is None:
            answers = tuple(self._ask(turns, n, temperature, max_tokens))
            self._store(key, answers)
        return answers

    def _store(self, key: str, answers: tuple[str, ...]) -> None:
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            self._answers[key] = answers
            file.write(json.dumps([key, answers]) + "\n")


def _read(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    if not path.is_file():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        content = content[: content.rfind(b"\n") + 1]
        path.write_bytes(content)  # or the next line would continue the one that was cut off
    for line in content.splitlines():
        try:
            key, answers = json.loads(line)
            yield str(key), tuple(map(str, answers))
        except (ValueError, TypeError):
            continue
