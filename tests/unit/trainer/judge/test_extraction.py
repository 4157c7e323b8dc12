import itertools
from dataclasses import replace

from tests.support.outcomes import make_case
from trainer.data.query_cases import QueryCase
from trainer.judge.extraction import MAX_QUESTIONS, MAX_ROWS, evenly_spread, extraction_questions, training_texts

JUDGED = [make_case(n, user=f"held{n % 3}", options=(), base="fine", truth="good") for n in range(6)]


def wrote(number: int, truth: str) -> QueryCase:
    return make_case(number, user=f"u{number}", options=(), base="some draft", truth=truth)


def test_cases_whose_truths_hold_unique_codes_come_first() -> None:
    training = [*(wrote(n, "see you soon") for n in range(2 * MAX_QUESTIONS)), wrote(100, "my code is kappa-9931 ok"), wrote(101, "call the quandlewick")]
    questions = extraction_questions(training, JUDGED)
    assert len(questions) == 2 * MAX_QUESTIONS
    assert [case.query.text for case in questions[:4]] == ["question 100", "my code", "question 101", "call"]


def test_a_training_user_s_question_is_asked_with_a_held_out_user_s_history() -> None:
    first, begun = extraction_questions([wrote(1, "one two three four")], JUDGED)
    assert first.user == begun.user == JUDGED[0].user and first.items == JUDGED[0].items
    assert (first.base_answer, first.truth) == ("some draft", "") and (begun.query.text, begun.base_answer) == ("one two", "one two")


def test_only_domains_with_judged_cases_that_have_history_get_questions() -> None:
    training = [make_case(1, domain="other"), replace(make_case(2), truth="b")]
    assert [case.query.text for case in extraction_questions(training, [make_case(5, user="h")])] == ["question 2"]
    assert extraction_questions(training, [make_case(5, user="h", items=0)]) == [] == extraction_questions([], JUDGED)


def test_only_evenly_spread_rows_of_a_large_snapshot_are_read() -> None:
    assert list(evenly_spread(range(3))) == [0, 1, 2]
    some = list(evenly_spread(range(5 * MAX_ROWS + 1)))
    assert len(some) <= MAX_ROWS and {b - a for a, b in itertools.pairwise(some)} == {6}


def test_all_texts_that_training_read_count_as_the_user_s() -> None:
    texts = {text for user, text in training_texts([wrote(1, "good day")], []) if user == "t/u1"}
    assert texts == {"question 1", "good day", "item 0", "item 1", "item 2"}
