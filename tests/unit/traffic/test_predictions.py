from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import CannotContinue
from schemas.lamp_metrics import OfficialTask
from tests.support.replay_questions import question
from tests.support.small_datasets import paper, questions, reading, write_jsonl, write_lamp
from traffic import predictions
from traffic.datasets.authored_texts import ArxivAuthors
from traffic.datasets.catalog import open_dataset
from traffic.datasets.files import BadData, DataFile
from traffic.datasets.lamp_outputs import LampOutputs, evaluate
from traffic.predictions import TASKS, Answered

INPUT = "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without further explanation. review: fine"


def _file(folder: Path, name: str) -> LampOutputs:
    return LampOutputs(DataFile(folder / name))


def test_the_answers_to_lamp_questions_are_evaluated_with_lamp_s_own_golds(tmp_path: Path) -> None:
    rows = [{"id": f"31{n}", "user_id": "ann", "input": INPUT, "profile": [{"id": "1", "text": "t", "score": "5", "date": "2001"}]} for n in range(3)]
    folder = write_lamp(tmp_path / "lamp", rows, "LaMP_3", {"310": "5", "311": "1", "312": "3"})
    asked, out = questions(open_dataset(folder).steps("t")), tmp_path / "out"
    predictions.check(out, asked)
    predictions.write(out, asked, [Answered(one, base="", final=one.truth or "") for one in reversed(asked)])
    for golds in (_file(folder, "dev_outputs.json"), _file(out, "product_rating-golds.json")):
        assert evaluate(OfficialTask.LAMP_3, golds, _file(out, "product_rating-final.json")).metrics["MAE"] == 0
        assert evaluate(OfficialTask.LAMP_3, golds, _file(out, "product_rating-base.json")).metrics["MAE"] == pytest.approx((4 + 4 + 2) / 3)


def test_a_lost_answer_is_named_by_evaluate(tmp_path: Path) -> None:
    rows = [paper(author, number, f"2007-01-0{number}") for author in ("Ann", "Bob") for number in (1, 2)]
    asked = questions(reading(ArxivAuthors, write_jsonl(tmp_path / "papers.jsonl", rows)).steps("t"))
    predictions.write(tmp_path, asked, [Answered(asked[0], "base", "final")])
    with pytest.raises(BadData, match=r"golds without a prediction \(1\): 'Bob/arxiv/Bob-2'"):
        evaluate(OfficialTask.LAMP_5, _file(tmp_path, "scholarly_title-golds.json"), _file(tmp_path, "scholarly_title-final.json"))


def test_a_domain_without_official_metrics_has_no_file(tmp_path: Path) -> None:
    other, rated = question("ann", 1, "x", domain="note"), question("ann", 2, "4", domain="movie_rating")
    predictions.check(tmp_path, [other, rated])
    predictions.write(tmp_path, [other, rated], [Answered(other, "a", "b")])
    assert {path.name for path in tmp_path.iterdir()} == {"movie_rating-golds.json", "movie_rating-base.json", "movie_rating-final.json"}
    with pytest.raises(BadData, match="--predictions: no domain of the data set has official metrics; expected one of movie_tag, "):
        predictions.check(tmp_path, [other])


def test_answers_of_an_earlier_replay_do_not_stay(tmp_path: Path) -> None:
    rated = question("ann", 2, "4", domain="movie_rating")
    predictions.write(tmp_path, [rated], [Answered(rated, "4", "4")])
    predictions.write(tmp_path, [rated], [])
    assert _file(tmp_path, "movie_rating-final.json").rows == {}


def test_a_folder_that_cannot_be_written_is_found_before_the_replay(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotContinue, match="choose another --predictions"):
        predictions.check(tmp_path / "file", [question("ann", 1, domain="movie_tag")])


def test_the_domains_are_those_of_the_data_sets() -> None:
    from traffic.datasets.global_opinions import DOMAIN
    from traffic.datasets.lamp import BY_PROFILE

    names = {task.domain: task.name for task in BY_PROFILE.values() if task.domain != "news_category"}
    assert names | {DOMAIN: "GOQA", "movie_rating": "LaMP_3"} == {domain: task.value for domain, task in TASKS.items()}
