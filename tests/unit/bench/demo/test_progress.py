from __future__ import annotations

import io

import pytest

from bench.phases import PhaseProgress


def test_without_a_terminal_each_phase_is_one_line() -> None:
    stream = io.StringIO()
    progress = PhaseProgress(stream)
    progress.go_live()
    with progress.phase("learn", "users ask") as span:
        progress.note(span, "12 questions")
    progress.close()
    [line] = stream.getvalue().splitlines()
    assert "users ask" in line
    assert "12 questions" in line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_newest_note_stands_below_the_finished_phases() -> None:
    stream = Terminal()
    progress = PhaseProgress(stream, in_place=True)
    with progress.phase("start", "start the processes"):
        assert "start" not in stream.getvalue()  # the stack draws
    with progress.phase("rag", "ask 9 questions") as span:
        progress.note(span, "1 of 9")
        progress.note(span, "2 of 9")
        assert stream.getvalue().endswith("ask 9 questions: 2 of 9")
    progress.close()
    first, second, left = [line.rpartition("\x1b[K")[2] for line in stream.getvalue().split("\n")]
    assert "start the processes: " in first and second.endswith("(2 of 9)") and left == ""


def test_a_phase_that_fails_still_ends_and_is_the_current_one() -> None:
    progress = PhaseProgress(io.StringIO())
    with pytest.raises(ValueError, match="broken"), progress.phase("train", "training"):
        raise ValueError("broken")
    assert progress.current == "training"
    assert progress.clock.spans[0].seconds is not None


def test_the_clock_converts_between_times_and_seconds() -> None:
    clock = PhaseProgress(io.StringIO()).clock
    assert clock.since_start(clock.at(12.5)) == 12.5
