"""The work for one user's questions grows with their number, not with its square. Counted in calls, which do not depend on the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_datasets import paper, questions, write_jsonl, write_lamp
from traffic.datasets.catalog import open_dataset
from traffic.datasets.steps import to_lines
from traffic.replay import ReplayScript
from traffic.schedule import OldestFirst

ASKED = "Generate a title for the following abstract of a paper: About it."


def _calls(run: Callable[[], object]) -> int:
    """Number of calls of functions, of Python and of C, and of steps of generators."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


def _lamp(folder: Path, number: int) -> Path:
    """Undated questions of one user with items of their own: in the order of time, all on one day, or with every item in every second profile's day."""
    rows: list[dict[str, Any]] = []
    for n in range(number):
        days = (f"20{n // 365 % 80 + 10}-01-02", "2001", f"19{n % 2 + 50}")
        profile = [{"id": f"{n}-{k}", "title": "t", "abstract": "a", "date": day} for k, day in enumerate(days)]
        rows.append({"id": str(n), "user_id": "ann", "input": ASKED, "profile": profile})
    return write_lamp(folder, rows, "LaMP_5", {str(n): "x" for n in range(number)})


def _papers(folder: Path, number: int) -> Path:
    folder.mkdir()
    return write_jsonl(folder / "papers.jsonl", [paper("Ann", n, f"20{n // 28 % 80 + 10}-01-{n % 28 + 1}") for n in range(number)])


def _events(folder: Path, number: int) -> Path:
    steps = open_dataset(_papers(folder, number), last=10**9).steps("t")
    lines = [line for step in steps for line in to_lines(step)]
    (folder / "events.jsonl").write_text("\n".join(lines))
    (folder / "papers.jsonl").unlink()
    return folder


def _replayed(path: Path) -> None:
    with ReplayScript.read(open_dataset(path, last=10**9) if path.suffix == ".jsonl" else open_dataset(path), "t", None) as script:
        for wave in script.waves():
            schedule = OldestFirst(wave)
            while question := schedule.next():
                schedule.done(question)


@pytest.mark.parametrize("written", [_lamp, _papers, _events])
def test_four_times_the_questions_are_about_four_times_the_work(tmp_path: Path, written: Callable[[Path, int], Path]) -> None:
    paths = [written(tmp_path / str(number), number) for number in (100, 400)]
    _replayed(paths[0])  # fills the caches
    few, many = (_calls(lambda path=path: _replayed(path)) for path in paths)  # type: ignore[misc]  # a default binds the path
    assert many < 5 * few, "four times, with some room; the square would be sixteen times"


def test_an_open_user_is_asked_in_linear_work(tmp_path: Path) -> None:
    steps = [questions(open_dataset(_papers(tmp_path / str(number), number), last=10**9).steps("t")) for number in (100, 400)]

    def ask(number: int) -> None:
        schedule = OldestFirst(steps[number])
        while question := schedule.next():
            schedule.done(question)

    ask(0)
    assert _calls(lambda: ask(1)) < 5 * _calls(lambda: ask(0))
