"""Many questions to the base model: order, failures, stops, and stored answers."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.errors import RetryLater
from schemas.prompts import ChatTurn
from trainer.hydra.asking import Question, StoredAnswers, ask_all
from trainer.interruption import Interrupted


def question(text: str) -> Question:
    return Question((ChatTurn("user", text),), 2, 1.0, 64)


class Echo:
    """Answers with the text. `asked` are the texts; `fails_at` raises RetryLater."""

    def __init__(self, fails_at: str = "") -> None:
        self.asked: list[str] = []
        self.fails_at = fails_at

    def __call__(self, turns: Sequence[ChatTurn], n: int, temperature: float, max_tokens: int) -> Sequence[str]:
        self.asked.append(turns[-1].content)
        if turns[-1].content == self.fails_at:
            raise RetryLater("away")
        return [f"{turns[-1].content} at {temperature}"] * n


def test_answers_come_in_the_order_of_the_questions() -> None:
    questions = [question(str(number)) for number in range(50)]
    answers = list(ask_all(Echo(), questions, 8, threading.Event()))
    assert answers == [[f"{number} at 1.0"] * 2 for number in range(50)]


def test_a_failure_ends_the_questions() -> None:
    echo = Echo(fails_at="3")
    with pytest.raises(RetryLater):
        list(ask_all(echo, [question(str(number)) for number in range(1000)], 2, threading.Event()))
    assert len(echo.asked) < 20


def test_a_stop_ends_the_questions() -> None:
    stop, echo = threading.Event(), Echo()
    answers = ask_all(echo, [question(str(number)) for number in range(1000)], 2, stop)
    next(answers)
    stop.set()
    with pytest.raises(Interrupted):
        next(answers)
    assert len(echo.asked) < 20


def test_a_stored_answer_is_not_asked_again(tmp_path: Path) -> None:
    path, echo = tmp_path / "answers.jsonl", Echo()
    first = StoredAnswers(echo, path, "m")(*question("a"))
    assert StoredAnswers(echo, path, "m")(*question("a")) == first
    assert echo.asked == ["a"]


@pytest.mark.parametrize("other", [question("b"), question("a")._replace(n=3), question("a")._replace(temperature=0.0), question("a")._replace(max_tokens=5)])
def test_another_question_is_asked(tmp_path: Path, other: Question) -> None:
    path, echo = tmp_path / "answers.jsonl", Echo()
    StoredAnswers(echo, path, "m")(*question("a"))
    StoredAnswers(echo, path, "m")(*other)
    assert len(echo.asked) == 2


def test_another_models_answers_are_not_used(tmp_path: Path) -> None:
    path, echo = tmp_path / "answers.jsonl", Echo()
    StoredAnswers(echo, path, "m")(*question("a"))
    StoredAnswers(echo, path, "n")(*question("a"))
    assert echo.asked == ["a", "a"]


def test_a_line_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    path, echo = tmp_path / "answers.jsonl", Echo()
    stored = StoredAnswers(echo, path, "m")
    stored(*question("a")), stored(*question("b"))
    path.write_bytes(path.read_bytes()[:-5])
    again = StoredAnswers(echo, path, "m")
    again(*question("a")), again(*question("b"))
    assert echo.asked == ["a", "b", "b"]
    StoredAnswers(echo, path, "m")(*question("b"))
    assert echo.asked == ["a", "b", "b"]


def test_the_file_holds_no_question(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    StoredAnswers(lambda turns, n, temperature, max_tokens: ["yes"], path, "m")(*question("a secret"))
    assert b"secret" not in path.read_bytes()
