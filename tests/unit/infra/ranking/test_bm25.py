"""BM25 by rank_bm25's rules, and the order of equal scores."""

import math

import pytest

from infra.ranking.bm25 import Ranked, corpus_text, rank
from schemas.tasks import Task
from tests.support.hydra_world import item


def test_scores_are_those_of_the_formula() -> None:
    texts = ["a b", "c d e", "f g h i", "a a a a", "j"]
    idf = math.log(5 - 2 + 0.5) - math.log(2 + 0.5)
    mean_length = 14 / 5

    def score(count: int, length: int) -> float:
        return idf * count * 2.5 / (count + 1.5 * (0.25 + 0.75 * length / mean_length))

    ranked = rank("a", texts, 5)
    assert [one.position for one in ranked] == [3, 0, 4, 2, 1]
    assert ranked[0].score == pytest.approx(score(4, 4))
    assert ranked[1].score == pytest.approx(score(1, 2))
    assert [one.score for one in ranked[2:]] == [0, 0, 0]


def test_case_and_punctuation_make_other_words() -> None:
    assert rank("Film", ["a film", "a Film.", "a Film", "none"], 1)[0].position == 2


def test_of_equal_scores_the_later_text_is_first_in_any_number() -> None:
    assert [one.position for one in rank("film", ["film"] * 40, 3)] == [39, 38, 37]


@pytest.mark.parametrize("texts", [["", " "], ["  ", "\n"]])
def test_texts_without_words_are_ranked_by_position(texts: list[str]) -> None:
    assert rank("film", texts, 5) == [Ranked(1, 0.0), Ranked(0, 0.0)]


def test_nothing_to_rank() -> None:
    assert rank("film", [], 5) == []
    assert rank("film", ["film"], 0) == []


def test_a_query_without_words_ranks_by_position() -> None:
    assert [one.position for one in rank(" ", ["a", "b"], 5)] == [1, 0]


def test_a_word_of_most_texts_has_the_floor_of_idf() -> None:
    texts = ["a b", "a c", "a d", "e f"]  # idf of `a` is negative: a quarter of the mean idf replaces it
    rare, common = math.log(4 - 1 + 0.5) - math.log(1.5), math.log(1.5) - math.log(3.5)
    floor = 0.25 * (5 * rare + common) / 6
    assert rank("a", texts, 1)[0].score == pytest.approx(floor * 2.5 / 2.5)


@pytest.mark.parametrize(
    ("task", "text"), [(Task.LABEL, "about a voyage"), (Task.RATING, "about a voyage"), (Task.TEXT, "the voyage about a voyage")], ids=lambda value: str(value)
)
def test_a_response_is_ranked_only_if_it_is_free_text(task: Task, text: str) -> None:
    assert corpus_text(item(1, content="about a voyage", response="the voyage"), task) == text


def test_a_response_without_content_is_its_own_text() -> None:
    assert corpus_text(item(1, content="", response="a tweet"), Task.TEXT) == "a tweet"
    assert corpus_text(item(1, content="an abstract", response=" "), Task.TEXT) == "an abstract"
