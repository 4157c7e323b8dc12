"""Labels: the scores of answers, which of them helped, and the threshold of a user's mean."""

from collections.abc import Sequence

import pytest

from infra.errors import CannotContinue
from schemas.domain_entries import DomainEntry
from schemas.domains import BUILT_IN_DOMAINS, Domains
from schemas.measures import ordinal_score
from schemas.scoring import rouge, style_f1
from schemas.tasks import STARS
from tests.support.hydra_world import item
from trainer.hydra.labels import above_mean, helped, is_truth, score

OPTIONS = ("comedy", "dark comedy", "romance")


def scored(answer: str, truth: str, options: Sequence[str] = (), domains: Domains = BUILT_IN_DOMAINS) -> float:
    return score(answer, truth, item(1, options=options).question, domains)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("comedy", 1), (" Comedy\n", 1), ("", 0), (" ", 0), ("dark comedy", 0), ("com", 0), ("comedy, romance", 0), ("a comedy", 0)],
)
def test_an_answer_is_right_if_it_names_the_truth(answer: str, expected: float) -> None:
    """HYDRA's rule, the generation inside the target, would accept the empty answer and `com`."""
    assert scored(answer, "comedy", OPTIONS) == expected


def test_the_truth_inside_an_answer_is_not_enough() -> None:
    assert scored("comedy", "dark comedy", OPTIONS) == scored("dark comedy", "comedy", OPTIONS) == 0


def test_a_rating_has_the_full_score_for_the_truth_alone() -> None:
    assert [scored(answer, "4", STARS) for answer in ("4", "5", "14", "")] == [1, 0.75, 0, 0]


def test_the_reward_of_the_domain_scores() -> None:
    answer, truth = "The Sea!", "the sea"
    assert scored(answer, truth) == style_f1(answer, truth) < 1
    assert scored(answer, truth, domains=Domains({"film": DomainEntry(reward="rouge")})) == sum(rouge(answer, truth)) / 2 == 1
    assert scored(" ", truth) == scored("", "!") == 0
    scale = Domains({"film": DomainEntry(options=OPTIONS, ordered=True, metric="accuracy", reward="ordinal_score")})
    assert scored("Dark comedy", "comedy", OPTIONS, scale) == ordinal_score("dark comedy", "comedy", OPTIONS) == 0.5


def test_a_measure_that_fails_ends_the_training() -> None:
    with pytest.raises(CannotContinue, match=r"no label for an answer of film: the measure tests\.support\.own_measures:fails failed"):
        scored("a", "b", domains=Domains({"film": DomainEntry(reward="tests.support.own_measures:fails")}))


def test_an_item_helped_with_the_full_score_or_one_above_the_mean() -> None:
    assert helped([1.0, 1.0], ["u", "u"]) == [1, 1]
    assert helped([0.75, 0.25, 0.0], ["u", "u", "u"]) == [1, 0, 0]
    assert helped([0.5, 0.5, 1.0], ["u", "v", "v"]) == [0, 0, 1]


def test_a_text_must_be_strictly_above_the_mean_of_its_user() -> None:
    assert above_mean([0.1, 0.3, 0.2], ["u", "u", "u"]) == [0, 1, 0]
    assert above_mean([0.1, 0.1, 0.1], ["u", "u", "u"]) == [0, 0, 0]  # whose mean in floats is above 0.1 by a rounding error, or below
    assert above_mean([0.5], ["u"]) == [0]


def test_a_users_rows_need_not_be_consecutive() -> None:
    values, users = [0.1, 0.9, 0.3, 0.7], ["u", "v", "u", "v"]
    assert above_mean(values, users) == [0, 1, 1, 0]  # the mean over all rows, 0.5, would give [0, 1, 0, 1]


def test_the_truth_is_recognized_in_any_form() -> None:
    assert is_truth(' "The  sea" ', "The sea") and not is_truth("the sea", "The sea")
