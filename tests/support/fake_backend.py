"""A backend that answers from a function, for tests: real admission, stamps and swaps without a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.control_marks import ControlMarks
from workers.serving.engines.backend import BackendCompletion
from workers.serving.engines.engine import FinishReason, SamplingParameters


class CharTokenizer:
    """One token per character, no chat template and no control tokens."""

    marks = ControlMarks()

    def encode(self, content: str) -> list[int]:
        return [ord(character) for character in content]

    def holds_control_tokens(self, turn_ids: Sequence[int]) -> bool:
        return False


class FakeBackend:
    """Answers `answer(prompt, checkpoint's name)` after `steps` steps of `step_s` each. It reads the name when the request finishes.

    So a request that runs across a load gets the new checkpoint's answer, which tests detect. `step` raises the errors of `answer`.
    """

    def __init__(self, checkpoint: Path, answer: Callable[[str, str], str], steps: int = 1, step_s: float = 0.0) -> None:
        self.checkpoint, self.answer, self.steps, self.step_s = checkpoint, answer, steps, step_s
        self.steps_left: dict[int, int] = {}
        self.prompts: dict[int, str] = {}
        self.refused: set[str] = set()  # names of checkpoints that do not load

    def admit(self, request_id: int, token_ids: list[int], sampling: SamplingParameters) -> None:
        prompt = "".join(map(chr, token_ids))
        if prompt.startswith("refuse"):
            raise ValueError("refused")
        self.steps_left[request_id], self.prompts[request_id] = self.steps, prompt

    def abort(self, request_id: int) -> None:
        self.steps_left.pop(request_id, None)

    def step(self) -> Sequence[BackendCompletion]:
        time.sleep(self.step_s)
        self.steps_left = {request_id: left - 1 for request_id, left in self.steps_left.items()}
        finished = [request_id for request_id, left in self.steps_left.items() if left <= 0]
        return [self._finish(request_id) for request_id in finished]

    def load(self, checkpoint: Path) -> None:
        if checkpoint.name in self.refused:
            raise ValueError("these weights do not load")
        if self.steps_left:
            raise RuntimeError("a load with requests in flight")
        self.checkpoint = checkpoint

    def close(self) -> None:
        self.steps_left.clear()

    def _finish(self, request_id: int) -> BackendCompletion:
        del self.steps_left[request_id]
        text = self.answer(self.prompts.pop(request_id), self.checkpoint.name)
        return BackendCompletion(request_id, text, tuple(map(ord, text)), FinishReason.STOP)
