import itertools
from dataclasses import replace

from tests.support.outcomes import make_case
from trainer.data.query_cases import QueryCase
from trainer.judge.extraction import MAX_QUESTIONS, MAX_ROWS, evenly_spread, extraction_questions, training_texts

JUDGED = [make_case(n, user=f"held{n % 3}", options=(), base="fine", truth="good") for n in range(6)]


def wrote(number: int, truth: str) -> QueryCase:
    return make_case(number, user=f"u{number}", options=(), base="some draft", truth=truth)


def test_those_whose_truths_hold_codes_of_their_own_are_asked_first() -> None:
    training = [*(wrote(n, "see you soon") for n in range(2 * MAX_QUESTIONS)), wrote(100, "my code is kappa-9931 ok"), wrote(101, "call the quandlewick")]
    asked = extraction_questions(training, JUDGED)
    assert len(asked) == 2 * MAX_QUESTIONS
    assert [case.query.text for case in asked[:4]] == ["question 100", "my code", "question 101", "call"]


def test_a_question_of_one_user_is_asked_with_the_history_of_another() -> None:
    first, begun = extraction_questions([wrote(1, "one two three four")], JUDGED)
    assert first.user == begun.user == JUDGED[0].user and first.items == JUDGED[0].items
    assert (first.base_answer, first.truth) == ("some draft", "") and (begun.query.text, begun.base_answer) == ("one two", "one two")


def test_only_domains_that_are_judged_with_history_are_asked() -> None:
    training = [make_case(1, domain="other"), replace(make_case(2), truth="b")]
    assert [case.query.text for case in extraction_questions(training, [make_case(5, user="h")])] == ["question 2"]
    assert extraction_questions(training, [make_case(5, user="h", items=0)]) == [] == extraction_questions([], JUDGED)


def test_of_very_many_rows_some_are_read_evenly() -> None:
    assert list(evenly_spread(range(3))) == [0, 1, 2]
    some = list(evenly_spread(range(5 * MAX_ROWS + 1)))
    assert len(some) <= MAX_ROWS and {b - a for a, b in itertools.pairwise(some)} == {6}


def test_all_that_training_saw_of_a_user_counts_as_said() -> None:
    texts = {text for user, text in training_texts([wrote(1, "good day")], []) if user == "t/u1"}
    assert texts == {"question 1", "good day", "item 0", "item 1", "item 2"}
