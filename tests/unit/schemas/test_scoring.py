import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.scoring import Pair, is_valid, metrics, paired_bootstrap, rating_error, rouge, score, style_f1
from schemas.tasks import MOVIE_TAGS, STARS, Task


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_style_counts_the_longest_common_subsequence(answer: list[str], truth: list[str]) -> None:
    table = [[0] * (len(truth) + 1) for _ in range(len(answer) + 1)]
    for i, left in enumerate(answer):
        for j, right in enumerate(truth):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    shared = sum(min(answer.count(token), truth.count(token)) for token in "abc")
    expected = (shared + table[-1][-1]) / (len(answer) + len(truth)) if answer and truth else float(answer == truth)
    assert style_f1(" ".join(answer), " ".join(truth)) == pytest.approx(expected)


def test_style_of_the_longest_texts_is_computed_fast() -> None:
    text = " ".join("abcdefgh"[index % 8] for index in range(16_000))
    assert style_f1(text, text) == 1.0


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [("comedy", "comedy", 1.0), (" comedy\n", "comedy", 1.0), ("dark comedy", "comedy", 0.0), ("Comedy", "comedy", 0.0), ("", "comedy", 0.0)],
)
def test_a_label_counts_only_when_it_matches_exactly(answer: str, truth: str, expected: float) -> None:
    assert score(Task.LABEL, answer, truth, MOVIE_TAGS) == expected


@pytest.mark.parametrize(
    ("answer", "truth", "error"),
    [
        ("4", "4", 0),
        ("4", "2", 2),
        ("3.7", "3", 0.7),  # floats stand
        ("6", "5", 1),  # no clipping
        ("-1", "1", 2),
        ("five", "1", 4),  # invalid: the far end
        ("", "2", 3),
        ("5 stars", "3", 2),  # gold 3 goes to 5
        ("bad", "4", 3),
        ("bad", "5", 4),
        ("nan", "5", 4),
        ("inf", "3", 2),
    ],
)
def test_ratings_follow_lamp_3(answer: str, truth: str, error: float) -> None:
    assert rating_error(answer, truth, STARS) == pytest.approx(error)
    assert score(Task.RATING, answer, truth, STARS) == pytest.approx(1 - error / 4)


def test_a_rating_scale_of_any_range_gives_scores_between_0_and_1() -> None:
    options = [str(value) for value in range(11)]
    assert score(Task.RATING, "7", "2", options) == 0.5
    assert score(Task.RATING, "1e9", "2", options) == 0.0
    assert score(Task.RATING, "2", "2", ["2"]) == 1.0


def test_style_counts_case_punctuation_and_emoji_where_rouge_does_not() -> None:
    assert rouge("The bus is late", "the bus is late !!") == (1.0, 1.0)
    assert style_f1("The bus is late", "the bus is late !!") == pytest.approx(2 * 3 / 9)
    assert style_f1("so good 🎉", "so good 🎉") == 1.0
    assert style_f1("so good", "so good 🎉") < 1.0


def test_style_is_the_mean_of_unigram_and_subsequence_f1() -> None:
    # All three words are shared (F1 1), two of them in order (F1 2/3).
    assert style_f1("a b c", "b a c") == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(("answer", "truth", "expected"), [("", "", 1.0), ("", "word", 0.0), ("word", "", 0.0), ("x", "y", 0.0)])
def test_style_of_empty_and_disjoint_texts(answer: str, truth: str, expected: float) -> None:
    assert style_f1(answer, truth) == expected


def test_metrics_have_names_by_task() -> None:
    assert metrics(Task.LABEL, [Pair("a", "a"), Pair("a", "b")]) == {"accuracy": 0.5}
    assert metrics(Task.RATING, [Pair("1", "5"), Pair("5", "5")]) == {"rating_score": 0.5, "mae": 2.0}
    assert metrics(Task.TEXT, [Pair("Hi", "hi")]) == {"style_f1": 0.0, "rouge_1": 1.0, "rouge_l": 1.0}
    with pytest.raises(ValueError, match="no answers"):
        metrics(Task.LABEL, [])


def test_answers_outside_the_options_are_not_valid() -> None:
    assert is_valid(Task.LABEL, " comedy ", MOVIE_TAGS)
    assert not is_valid(Task.LABEL, "a comedy", MOVIE_TAGS)
    assert not is_valid(Task.RATING, "3.5", STARS)
    assert is_valid(Task.TEXT, "anything", ())
    assert not is_valid(Task.TEXT, "  ", ())


def test_the_bootstrap_pairs_users_and_repeats_with_its_seed() -> None:
    before = {f"u{i}": i / 50 for i in range(50)}
    after = {user: value + 0.1 for user, value in before.items()}
    same = paired_bootstrap(before, dict(reversed(after.items())), seed=3)
    assert same == pytest.approx((0.1, 0.1, 0.1))
    noisy = {user: value + (0.3 if index % 2 else -0.1) for index, (user, value) in enumerate(before.items())}
    mean, low, high = paired_bootstrap(before, noisy, seed=3)
    assert low < mean < high and mean == pytest.approx(0.1) and low > 0.03 and high < 0.17
    assert paired_bootstrap(before, noisy, seed=3) == (mean, low, high)


def test_the_bootstrap_refuses_unlike_users() -> None:
    with pytest.raises(ValueError, match="same users"):
        paired_bootstrap({"a": 1.0}, {"b": 1.0}, seed=0)


def test_scoring_imports_nothing_slow() -> None:
    code = "import sys, schemas.scoring; sys.exit(any(m in sys.modules for m in ('torch', 'rouge_score', 'numpy', 'kafka')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
