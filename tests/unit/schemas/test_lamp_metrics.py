"""LaMP's rules, and a comparison with the libraries, called as LaMP's eval/evaluation.py and the scripts of Hugging Face's `evaluate` call them."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, root_mean_squared_error

from schemas.lamp_metrics import NotMeasurable, OfficialTask, official_metrics, unknown_labels
from schemas.tasks import MOVIE_TAGS

LAMP_2, LAMP_3, LAMP_7, GOQA = OfficialTask.LAMP_2, OfficialTask.LAMP_3, OfficialTask.LAMP_7, OfficialTask.GOQA


def _measured(task: OfficialTask, *pairs: tuple[str, str]) -> dict[str, float]:
    """Pairs of prediction and gold."""
    return official_metrics(task, [prediction for prediction, _ in pairs], [gold for _, gold in pairs])


def _by_scikit_learn(predictions: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    def index(text: str) -> int:
        return MOVIE_TAGS.index(text.strip()) if text.strip() in MOVIE_TAGS else -1

    predicted, true = [index(text) for text in predictions], [index(text) for text in golds]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of labels that never occur
        f1 = f1_score(true, predicted, labels=list(range(len(MOVIE_TAGS))), average="macro")
    return {"accuracy": accuracy_score(true, predicted), "f1": f1}


def _float_or_far_end(text: str, gold: str) -> float:
    try:
        return float(text.strip())
    except ValueError:
        return 1.0 if abs(1 - float(gold)) > abs(5 - float(gold)) else 5.0


def _errors_by_scikit_learn(predictions: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    given_ratings = [_float_or_far_end(*pair) for pair in zip(predictions, golds, strict=True)]
    predicted, true = (np.asarray(values, dtype=np.float32).astype(np.float64) for values in (given_ratings, [float(gold) for gold in golds]))
    return {"MAE": mean_absolute_error(true, predicted), "RMSE": root_mean_squared_error(true, predicted)}


labels = st.sampled_from([*MOVIE_TAGS, " comedy\n", "Comedy", '"comedy"', "dark", "horror", "", "romance."])


@given(st.lists(st.tuples(labels, labels), min_size=1, max_size=40))
def test_labels_have_the_figures_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    predictions, golds = zip(*pairs, strict=True)
    assert official_metrics(LAMP_2, predictions, golds) == pytest.approx(_by_scikit_learn(predictions, golds), abs=1e-12)


ratings = (
    st.sampled_from(["1", "2", "3", "4", "5", " 4 ", "6", "-1", "3.7", "1_0", "", "five", "4 stars", "٤", "1e3", "0x1", "5."])
    | st.floats(-1e6, 1e6).map(str)
    | st.text(max_size=6).filter(lambda text: not text.strip().lower().lstrip("+-").startswith(("inf", "nan")))
)


@given(st.lists(st.tuples(ratings, st.sampled_from("12345")), min_size=1, max_size=300))
@settings(deadline=None)
def test_ratings_have_the_figures_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    predictions, golds = zip(*pairs, strict=True)
    expected = _errors_by_scikit_learn(predictions, golds)
    assert official_metrics(LAMP_3, predictions, golds) == pytest.approx(expected, rel=1e-12)


texts = st.text(st.sampled_from("aA bB!é\u0301,.-'0 \n的ß"), max_size=60) | st.text(st.characters(codec="utf-8"), max_size=30)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
@settings(deadline=None)
def test_texts_have_the_mean_of_the_figures_of_rouge_score(pairs: list[tuple[str, str]]) -> None:
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    both = [scorer.score_multi([gold.strip()], prediction.strip()) for prediction, gold in pairs]
    expected = {
        "rouge-1": float(np.mean([score["rouge1"].fmeasure for score in both])),
        "rouge-L": float(np.mean([score["rougeL"].fmeasure for score in both])),
    }
    assert _measured(LAMP_7, *pairs) == pytest.approx(expected, abs=1e-12)


def test_the_library_of_the_script_keeps_ratings_in_float32() -> None:
    from datasets import Dataset, Features, Value

    rows = Dataset.from_dict({"predictions": [3.7]}, features=Features({"predictions": Value("float")})).with_format("numpy")
    (kept,) = rows["predictions"][:].tolist()
    assert kept != 3.7 and _measured(LAMP_3, ("3.7", "1")) == {"MAE": kept - 1, "RMSE": kept - 1}


def test_f1_is_the_mean_over_all_15_tags() -> None:
    assert _measured(LAMP_2, ("comedy", "comedy")) == {"accuracy": 1.0, "f1": pytest.approx(1 / 15)}


@pytest.mark.parametrize("prediction", ["Comedy", '"comedy"', "comedy.", "dark comedy", "the tag is comedy", ""])
def test_a_tag_counts_only_as_the_exact_string(prediction: str) -> None:
    assert _measured(LAMP_2, (prediction, "comedy")) == {"accuracy": 0.0, "f1": 0.0}


def test_an_unknown_prediction_of_an_unknown_gold_is_right_in_accuracy_only() -> None:
    assert _measured(LAMP_2, ("sports", "horror"), ("crime", "comedy")) == {"accuracy": 0.5, "f1": 0.0}
    assert (unknown_labels(LAMP_2, ["sports", " comedy ", ""]), unknown_labels(LAMP_7, ["sports"])) == (2, 0)


@pytest.mark.parametrize(
    ("prediction", "gold", "error"),
    [
        *[("bad", "1", 4), ("bad", "2", 3), ("bad", "3", 2), ("bad", "4", 3), ("bad", "5", 4)],  # a gold of 3 is compared with 5
        *[("", "5", 4), ("5 stars", "5", 4), ("five", "1", 4)],
        *[("6", "5", 1), ("-1", "1", 2), (" 4\n", "4", 0), ("1_0", "5", 5), ("0.5", "1", 0.5), ("1e1", "5", 5)],
        ("bad", "3.5", 2.5),
        ("bad", "7", 6),
    ],
)
def test_a_rating_stands_as_it_is_or_is_the_far_end(prediction: str, gold: str, error: float) -> None:
    assert _measured(LAMP_3, (prediction, gold)) == {"MAE": error, "RMSE": error}


def test_every_row_counts_in_the_errors() -> None:
    assert _measured(LAMP_3, ("bad", "5"), ("5", "5"), ("3", "5")) == {"MAE": 2.0, "RMSE": pytest.approx(math.sqrt(20 / 3), rel=1e-6)}


@pytest.mark.parametrize("text", ["nan", "-NaN", "inf", "Infinity", "1e39", "9" * 400])
def test_a_number_without_a_finite_figure_is_named(text: str) -> None:
    with pytest.raises(NotMeasurable, match="finite") as caught:
        _measured(LAMP_3, ("5", "5"), (text, "1"))
    assert (caught.value.number, caught.value.is_gold) == (1, False)


def test_a_number_of_many_digits_stands() -> None:
    assert _measured(LAMP_3, ("5" * 30, "1"))["MAE"] == pytest.approx(5.5555e29, rel=1e-4)


@pytest.mark.parametrize("gold", ["", "good", "nan", "inf"])
def test_a_gold_that_is_no_number_is_named(gold: str) -> None:
    with pytest.raises(NotMeasurable) as caught:
        _measured(LAMP_3, ("5", "5"), ("5", gold))
    assert (caught.value.number, caught.value.is_gold) == (1, True)


def test_rouge_stems_nothing_and_is_the_mean_of_f_measures_over_examples() -> None:
    assert _measured(LAMP_7, ("running", "run")) == {"rouge-1": 0.0, "rouge-L": 0.0}
    assert _measured(LAMP_7, ("a b", "a"), ("b a", "a b"), ("", "")) == {"rouge-1": pytest.approx((2 / 3 + 1 + 0) / 3), "rouge-L": pytest.approx(7 / 18)}


def test_rouge_l_runs_over_line_breaks() -> None:
    """rougeLsum would split the texts at the line break and score 1."""
    assert _measured(LAMP_7, ("b\na", "a\nb")) == {"rouge-1": 1.0, "rouge-L": 0.5}


def test_rouge_counts_texts_as_they_are_written() -> None:
    assert _measured(LAMP_7, ("cafe\u0301", "café"))["rouge-1"] != 1.0
    assert _measured(LAMP_7, ("טוב", "טוב")) == {"rouge-1": 0.0, "rouge-L": 0.0}


def test_goqa_counts_exact_options() -> None:
    assert _measured(GOQA, ("Yes ", "Yes"), ("yes", "Yes"), ("No", "Yes"), ("Don't know", "Don't know")) == {"accuracy": 0.5}


@pytest.mark.parametrize(("predictions", "golds"), [([], []), (["1"], []), (["1", "2"], ["1"])])
def test_as_many_predictions_as_golds_are_expected(predictions: list[str], golds: list[str]) -> None:
    for task in OfficialTask:
        with pytest.raises(ValueError, match="expected as many"):
            official_metrics(task, predictions, golds)


def test_the_import_loads_no_library_of_numbers_or_rouge() -> None:
    code = "import sys, schemas.lamp_metrics; print({'numpy', 'rouge_score', 'nltk', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
