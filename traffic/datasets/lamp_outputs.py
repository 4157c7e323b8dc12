"""LaMP's files of answers: `{"task": "LaMP_3", "golds": [{"id": "310", "output": "4"}, ...]}`. Golds and predictions have the same shape and the same keys."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from schemas.lamp_metrics import NotMeasurable, OfficialTask, official_metrics, unknown_labels
from traffic.datasets.files import BadData, DataFile, NotJson, parse_json, shown
from traffic.datasets.rows import DataRow, FirstPlaces, Place

#: Ids that an error lists. It has the number of the others.
IDS_SHOWN = 10


@dataclass(frozen=True)
class LampOutputs:
    """One file of answers. Raises BadData, when a part is first used, for a file that is no such JSON or that has an id twice."""

    file: DataFile

    @property
    def name(self) -> str:
        return shown(self.file.path)

    @cached_property
    def content(self) -> DataRow:
        """The object that the file is."""
        text = self.file.text()
        try:
            value = parse_json(text)
        except NotJson as error:
            line = None if error.at is None else text.count("\n", 0, error.at) + 1
            raise self.file.bad(f"not JSON: {error}", line) from None
        return DataRow.of(Place(self.file, 1), value, "the file")

    @cached_property
    def task(self) -> str:
        """As it is written."""
        return self.content.text("task")

    @cached_property
    def rows(self) -> Mapping[str, DataRow]:
        """The answers by question id, in the order of the file, which has no meaning."""
        rows: dict[str, DataRow] = {}
        places = FirstPlaces("the output's id")
        for row in self.content.objects("golds"):
            question_id = row.text("id", filled=True)
            places.take(question_id, row.place)
            rows[question_id] = row
        return rows


@dataclass(frozen=True)
class Evaluation:
    """Official metrics of a file of predictions. `unknown_*`: texts that are no label of the task."""

    task: OfficialTask
    questions: int
    metrics: Mapping[str, float]
    unknown_golds: int
    unknown_predictions: int


def official_task(name: str) -> OfficialTask | None:
    """The task of a name such as `LaMP_3`, `LaMP-3` or `LaMP_2M` (movie tags), in any letter case. `LaMP_2N`, the older news categories, is none."""
    written = name.replace("-", "_").casefold()
    known = {task.value.casefold(): task for task in OfficialTask} | {"lamp_2m": OfficialTask.LAMP_2}
    return known.get(written)


def evaluate(task: OfficialTask, golds: LampOutputs, predictions: LampOutputs) -> Evaluation:
    """Raises BadData for files of another task, for ids that are not the same in both, and for outputs that LaMP's script cannot measure."""
    for file in (golds, predictions):
        if official_task(file.task) is not task:
            raise file.content.bad(f"field 'task' is not {task.value}, the task to evaluate")
    if not golds.rows:
        raise golds.content.bad("field 'golds' is empty; expected at least one gold")
    _check_ids(golds, predictions)
    given, true = ([rows[question_id].text("output") for question_id in golds.rows] for rows in (predictions.rows, golds.rows))
    try:
        metrics = official_metrics(task, given, true)
    except NotMeasurable as error:
        row = (golds if error.is_gold else predictions).rows[list(golds.rows)[error.number]]
        raise row.bad(f"field 'output' is {error}: LaMP's script has no figure for it") from None
    return Evaluation(task, len(true), metrics, unknown_labels(task, true), unknown_labels(task, given))


def write_outputs(task: str, answers: Mapping[str, str]) -> str:
    """The text of a file of answers by question id."""
    golds = [{"id": question_id, "output": output} for question_id, output in answers.items()]
    return json.dumps({"task": task, "golds": golds}, indent=1, ensure_ascii=False) + "\n"


def _check_ids(golds: LampOutputs, predictions: LampOutputs) -> None:
    missing = [question_id for question_id in golds.rows if question_id not in predictions.rows]
    extra = [question_id for question_id in predictions.rows if question_id not in golds.rows]
    if missing or extra:
        raise ids_differ(predictions.name, golds.name, {"golds without a prediction": missing, "predictions without a gold": extra})


def ids_differ(file: str, other: str, sides: Mapping[str, Collection[str]]) -> BadData:
    """The error for two files that must have the same ids. `sides`: the ids that only one of them has, by what they are."""
    differences = "; ".join(f"{what} ({len(ids)}): {_listed(ids)}" for what, ids in sides.items() if ids)
    return BadData(f"{file}: the ids are not those of {other}: {differences}")


def _listed(ids: Collection[str]) -> str:
    listed = ", ".join(ascii(question_id)[:40] for question_id in list(ids)[:IDS_SHOWN])
    return listed if len(ids) <= IDS_SHOWN else f"{listed} and {len(ids) - IDS_SHOWN} more"
