"""Labels: which answers are right, and the threshold of free texts."""

import pytest

from infra.settings.hydra import TextMeasure
from schemas.scoring import rouge, style_f1
from trainer.hydra.labels import above_mean, is_right, is_truth, nearness

OPTIONS = ("comedy", "dark comedy", "romance")


@pytest.mark.parametrize(
    ("answer", "right"),
    [("comedy", True), (" Comedy\n", True), ("", False), (" ", False), ("dark comedy", False), ("com", False), ("comedy, romance", False), ("a comedy", False)],
)
def test_an_answer_is_right_if_it_names_the_truth(answer: str, right: bool) -> None:
    """HYDRA's rule, the generation inside the target, would accept the empty answer and `com`."""
    assert is_right(answer, "comedy", OPTIONS) is right


def test_the_truth_inside_an_answer_is_not_enough() -> None:
    assert not is_right("comedy", "dark comedy", OPTIONS)
    assert not is_right("dark comedy", "comedy", OPTIONS)


def test_a_rating_is_right_or_wrong() -> None:
    assert [is_right(answer, "4", ("1", "2", "3", "4", "5")) for answer in ("4", "5", "14", "")] == [True, False, False, False]


def test_nearness_is_the_chosen_measure() -> None:
    answer, truth = "The Sea!", "the sea"
    assert nearness(answer, truth, TextMeasure.ROUGE) == sum(rouge(answer, truth)) / 2 == 1
    assert nearness(answer, truth, TextMeasure.STYLE_F1) == style_f1(answer, truth) < 1
    assert nearness(" ", truth, TextMeasure.STYLE_F1) == nearness("", "!", TextMeasure.ROUGE) == 0


def test_a_text_must_be_strictly_above_the_mean_of_its_user() -> None:
    assert above_mean([0.1, 0.3, 0.2], ["u", "u", "u"]) == [0, 1, 0]
    assert above_mean([0.1, 0.1, 0.1], ["u", "u", "u"]) == [0, 0, 0]  # whose mean in floats is above 0.1 by a rounding error, or below
    assert above_mean([0.5], ["u"]) == [0]


def test_a_users_rows_need_not_be_consecutive() -> None:
    values, users = [0.1, 0.9, 0.3, 0.7], ["u", "v", "u", "v"]
    assert above_mean(values, users) == [0, 1, 1, 0]  # the mean over all rows, 0.5, would give [0, 1, 0, 1]


def test_the_truth_is_recognized_in_any_form() -> None:
    assert is_truth(' "The  sea" ', "The sea") and not is_truth("the sea", "The sea")
