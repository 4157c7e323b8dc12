import random
import subprocess
import sys
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from schemas.sameness import is_blank
from schemas.scoring import Pair, accuracy, is_valid, metrics, paired_bootstrap, rating_error, rating_score, rouge, rouge_applies, style_f1
from schemas.tasks import MOVIE_TAGS, STARS, Task
from tests.support.latin_texts import BEFORE, latin_texts

BEIJING = "我今天去了北京的故宫博物院参观"
MARCH, HEBREW = "मुझे हिन्दी फ़िल्में बहुत पसंद हैं", "שָׁלוֹם עולם, מה שלומך?"
#: Texts of many scripts, also with characters that interact, and nothing but invisible ones.
any_text = st.text(st.sampled_from("a B!é\u0301कि\u094d\u200dת\u05b8我ไทก้ำ한1❤\ufe0f🎉\u200b\u3164"), max_size=20) | st.text(
    st.characters(codec="utf-8"), max_size=20
)


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
    assert accuracy(answer, truth, MOVIE_TAGS) == expected


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
    assert rating_score(answer, truth, STARS) == pytest.approx(1 - error / 4)


def test_a_rating_scale_of_any_range_gives_scores_between_0_and_1() -> None:
    options = [str(value) for value in range(11)]
    assert rating_score("7", "2", options) == 0.5
    assert rating_score("1e9", "2", options) == 0.0
    assert rating_score("2", "2", ["2"]) == 1.0


def test_style_counts_case_punctuation_and_emoji_where_rouge_does_not() -> None:
    assert rouge("The bus is late", "the bus is late !!") == (1.0, 1.0)
    assert style_f1("The bus is late", "the bus is late !!") == pytest.approx(2 * 3 / 9)
    assert style_f1("so good 🎉", "so good 🎉") == 1.0
    assert style_f1("so good", "so good 🎉") < 1.0


def test_style_is_the_mean_of_unigram_and_subsequence_f1() -> None:
    # All three words are shared (F1 1), two of them in order (F1 2/3).
    assert style_f1("a b c", "b a c") == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        (BEIJING, BEIJING + "了", 2 * 15 / 31),
        (BEIJING, BEIJING, 1.0),
        (MARCH, MARCH.replace("बहुत", "कम"), 5 / 6),  # one of six words
        ("कि", "का", 0.0),  # other vowel signs are other words
        (HEBREW, HEBREW, 1.0),
        ("שָׁלוֹם", "שלום", 0.0),
        ("ผมชอบหนังตลก", "ผมชอบหนังตลกมาก", 2 * 11 / 25),
        ("映画が好きです。", "映画が好きだ。", 2 * 6 / 15),
        ("나는 영화를 좋아한다", "나는 영화를 싫어한다", 2 / 3),
        ("cafe\u0301", "café", 1.0),
        ("za\u200bro", "zaro", 1.0),
        ("Café, isn't it? #wow 🎉", "Cafe, isn't it? #wow 🎉", 6 / 7),
    ],
)
def test_texts_of_any_script_score_by_what_their_readers_see(answer: str, truth: str, expected: float) -> None:
    for form in ("NFC", "NFD"):
        assert style_f1(unicodedata.normalize(form, answer), truth) == pytest.approx(expected)
        assert style_f1(truth, unicodedata.normalize(form, answer)) == pytest.approx(expected)


@given(any_text, any_text)
def test_scores_of_texts_have_one_scale_in_any_script(answer: str, truth: str) -> None:
    assert style_f1(answer, answer) == 1.0
    found = style_f1(answer, truth)
    assert 0 <= found <= 1 and found == style_f1(truth, answer)
    assert found == style_f1(unicodedata.normalize("NFD", answer), unicodedata.normalize("NFC", truth))
    if is_blank(answer) and not is_blank(truth):
        assert found == 0 and not is_valid(Task.TEXT, answer, ())


@given(latin_texts, latin_texts)
def test_latin_scores_are_those_of_before_to_the_last_digit(answer: str, truth: str) -> None:
    predicted, gold = BEFORE.findall(answer.strip()), BEFORE.findall(truth.strip())
    shared = sum((Counter(predicted) & Counter(gold)).values())
    row = [0] * (len(gold) + 1)
    for token in predicted:
        above = row[:]
        for column, other in enumerate(gold):
            row[column + 1] = above[column] + 1 if token == other else max(above[column + 1], row[column])
    assert style_f1(answer, truth) == ((shared + row[-1]) / (len(predicted) + len(gold)) if predicted and gold else float(predicted == gold))


@given(latin_texts, latin_texts)
def test_rouge_is_the_library_s_to_the_last_digit(answer: str, truth: str) -> None:
    library = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    for given_answer, given_truth in ((answer, truth), (f"{truth} {answer}", f"{answer} {truth}"), (truth, truth)):
        expected = library.score(given_truth, given_answer)
        assert rouge(given_answer, given_truth) == (expected["rouge1"].fmeasure, expected["rougeL"].fmeasure)


@pytest.mark.timeout(60)  # rouge_score itself takes up to a minute
@pytest.mark.parametrize("words", ["a", "abcdefgh", [f"{number:x}" for number in range(9_000)], [chr(0x4E00 + number) for number in range(9_000)]])
def test_the_longest_texts_are_scored_fast(words: str | list[str]) -> None:
    rng = random.Random(0)
    blank = " " if words[0].isascii() else ""
    left, right = (blank.join(rng.choices(words, k=32_768))[:32_768] for _ in range(2))
    assert 0 < style_f1(left, right) <= 1 == style_f1(left, left)
    assert len(rouge(left, right)) == 2


@pytest.mark.parametrize(
    ("truth", "applies"),
    [
        ("The bus is late", True),
        ("Très à l'heure", True),
        ("the α-decay of ψ", True),
        ("2024", True),  # no words: as the library sees it
        ("🎉", True),
        (HEBREW, False),
        (MARCH, False),
        (BEIJING, False),
        ("Дім", False),
        ("2024年", False),
        ("iPhone 手机很好", False),
    ],
)
def test_rouge_applies_to_truths_with_words_that_it_sees(truth: str, applies: bool) -> None:
    assert rouge_applies(truth) is applies


def test_rouge_is_that_of_the_texts_as_they_are_seen() -> None:
    assert rouge("de\u0301ja\u0300 vu au cafe\u0301", "déjà vu au café") == (1.0, 1.0) == rouge("co\u00adope\u200brate", "cooperate")


def test_rouge_is_reported_over_the_pairs_that_it_applies_to() -> None:
    latin, hebrew = Pair("so good", "so good"), Pair(HEBREW, HEBREW)
    assert metrics(Task.TEXT, [latin, hebrew]) == {"style_f1": 1.0, "rouge_1": 1.0, "rouge_l": 1.0, "rouge_pairs": 1}
    assert metrics(Task.TEXT, [hebrew]) == {"style_f1": 1.0}
    assert metrics(Task.TEXT, [latin]) == {"style_f1": 1.0, "rouge_1": 1.0, "rouge_l": 1.0}
    assert metrics(Task.TEXT, [Pair("שלום", "so good")]) == {"style_f1": 0.0, "rouge_1": 0.0, "rouge_l": 0.0}


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [("cafe\u0301", "café", 1.0), ("\u200bcomedy\ufeff", "comedy", 1.0), ('"comedy"', "comedy", 1.0), ("ｃｏｍｅｄｙ", "comedy", 1.0), ("❤", "❤\ufe0f", 1.0)],
)
def test_labels_are_compared_in_their_normalized_form(answer: str, truth: str, expected: float) -> None:
    assert accuracy(answer, truth, (truth, "action")) == expected
    assert is_valid(Task.LABEL, answer, (truth, "action"))


@pytest.mark.parametrize(("answer", "expected"), [("５", 1.0), ("\u200e5", 1.0), ("\u200b", 0.0), ("5\ufe0f", 1.0)])
def test_ratings_are_read_in_their_normalized_form(answer: str, expected: float) -> None:
    assert rating_score(answer, "5", STARS) == rating_score("5", "５", STARS) * expected
    assert is_valid(Task.RATING, answer, STARS) is (expected == 1.0)


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
    assert not is_valid(Task.TEXT, "\u200b\u3164\u2800", ())
    assert not is_valid(Task.LABEL, "\u200b", MOVIE_TAGS)


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
    code = "import sys, schemas.scoring; sys.exit(any(m in sys.modules for m in ('torch', 'rouge_score', 'nltk', 'numpy', 'kafka')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
