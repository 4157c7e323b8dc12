from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.lamp_metrics import OfficialTask, official_metrics
from tests.support.small_datasets import write_outputs_file
from traffic.datasets.files import BadData, DataFile
from traffic.datasets.lamp_outputs import Evaluation, LampOutputs, evaluate, official_task, write_outputs


def _outputs(path: Path, answers: dict[str, Any], task: str = "LaMP_3") -> LampOutputs:
    return LampOutputs(DataFile(write_outputs_file(path, task, answers)))


def _evaluated(folder: Path, golds: dict[str, Any], predictions: dict[str, Any], task: OfficialTask = OfficialTask.LAMP_3) -> Evaluation:
    return evaluate(task, _outputs(folder / "golds.json", golds, task.value), _outputs(folder / "predictions.json", predictions, task.value))


def _refused(folder: Path, golds: dict[str, Any], predictions: dict[str, Any]) -> str:
    with pytest.raises(BadData) as caught:
        _evaluated(folder, golds, predictions)
    return str(caught.value).replace(str(folder), "")


@pytest.mark.parametrize(
    ("name", "task"),
    [
        *[(name, OfficialTask.LAMP_2) for name in ("LaMP_2", "LaMP-2", "lamp_2", "LaMP_2M")],
        *[("LaMP-7", OfficialTask.LAMP_7), ("goqa", OfficialTask.GOQA)],
        *[(name, None) for name in ("LaMP_2N", "LaMP_1", "LaMP_6", "LaMP_33", "3", "")],
    ],
)
def test_a_task_has_the_names_of_files_and_command_lines(name: str, task: OfficialTask | None) -> None:
    assert official_task(name) is task


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1), st.tuples(st.sampled_from("12345"), st.sampled_from("1 x")), min_size=1
    ),
    st.randoms(),
)
def test_answers_are_matched_by_id_and_not_by_order(tmp_path: Path, pairs: dict[str, tuple[str, str]], random: Any) -> None:
    shuffled = random.sample(list(pairs), len(pairs))
    found = _evaluated(tmp_path, {key: gold for key, (gold, _) in pairs.items()}, {key: pairs[key][1] for key in shuffled})
    expected = official_metrics(OfficialTask.LAMP_3, [prediction for _, prediction in pairs.values()], [gold for gold, _ in pairs.values()])
    assert (found.metrics, found.questions) == (expected, len(pairs))


def test_a_blank_prediction_is_an_answer(tmp_path: Path) -> None:
    assert _evaluated(tmp_path, {"1": "5"}, {"1": ""}).metrics["MAE"] == 4


def test_numbers_are_read_as_the_script_reads_them(tmp_path: Path) -> None:
    assert _evaluated(tmp_path, {"1": 5, "2": "1"}, {"1": 4.0, "2": 1}).metrics["MAE"] == 0.5


def test_unknown_labels_are_counted(tmp_path: Path) -> None:
    found = _evaluated(tmp_path, {"1": "comedy", "2": "sports"}, {"1": "funny", "2": "crime"}, OfficialTask.LAMP_2)
    assert (found.unknown_golds, found.unknown_predictions, found.metrics["accuracy"]) == (1, 2, 0.5)


def test_ids_that_differ_are_listed_with_their_number(tmp_path: Path) -> None:
    golds = {str(number): "1" for number in range(30)}
    message = _refused(tmp_path, golds, {"3": "1", "x": "1", "y\n": "2"})
    assert message == (
        "/predictions.json: the ids are not those of /golds.json: golds without a prediction (29): "
        "'0', '1', '2', '4', '5', '6', '7', '8', '9', '10' and 19 more; predictions without a gold (2): 'x', 'y\\n'"
    )
    assert "predictions without a gold (1): '9'" in _refused(tmp_path, {"1": "1"}, {"1": "1", "9": "1"})


@pytest.mark.parametrize(
    ("golds", "predictions", "message"),
    [
        ({"1": "5"}, {"1": None}, "/predictions.json:1: golds[0] (id '1'): field 'output' is null; expected text"),
        ({"1": "5"}, {"1": ["5"]}, "/predictions.json:1: golds[0] (id '1'): field 'output' is a list; expected text"),
        ({"1": "5"}, {"1": True}, "/predictions.json:1: golds[0] (id '1'): field 'output' is true or false; expected text"),
        ({"1": "good"}, {"1": "5"}, "/golds.json:1: golds[0] (id '1'): field 'output' is no number: LaMP's script has no figure for it"),
        ({"1": "5"}, {"1": "nan"}, "/predictions.json:1: golds[0] (id '1'): field 'output' is no finite number in float32"),
        ({"1": "5"}, {"1": "1e400"}, "/predictions.json:1: golds[0] (id '1'): field 'output' is no finite number in float32"),
        ({}, {}, "/golds.json:1: field 'golds' is empty"),
    ],
)
def test_an_output_without_a_figure_is_named_with_file_id_and_field(tmp_path: Path, golds: dict[str, Any], predictions: dict[str, Any], message: str) -> None:
    assert _refused(tmp_path, golds, predictions).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "/predictions.json:1: not JSON"),
        ('{"task": "LaMP_3",\n "golds": [{"id": "1", "output": }]}', "/predictions.json:2: not JSON: Expecting value"),
        ('\n\n{"task": "LaMP_3", "golds": [{"id": "1", "output": NaN}]}', "/predictions.json: not JSON: NaN is no JSON number: key 'output' (id '1')"),
        ('{"task": "LaMP_3", "golds": [{"id": 7, "output": [[-Infinity]]}]}', "/predictions.json: not JSON: -Infinity is no JSON number: key 'output' (id 7)"),
        ("\n[[NaN]]", "/predictions.json: not JSON: NaN is no JSON number"),
        ('\n{"task": "LaMP_3", "golds": [], "golds": []}', "/predictions.json: not JSON: the key 'golds' occurs twice in one object"),
        (
            '{"task": "LaMP_3", "golds": [{"id": "1", "output": "5", "output": "4"}]}',
            "/predictions.json: not JSON: the key 'output' occurs twice in one object (id '1')",
        ),
        ("\n" + "[" * 100_000, "/predictions.json: not JSON: nested too deeply"),
        ('[{"id": "1", "output": "5"}]', "/predictions.json:1: the file is a list; expected an object"),
        ("null", "/predictions.json:1: the file is null; expected an object"),
        ('{"task": "LaMP_3", "golds": null}', "/predictions.json:1: field 'golds' is null; expected a list of objects"),
        ('{"task": "LaMP_3", "golds": {"1": "5"}}', "/predictions.json:1: field 'golds' is an object; expected a list of objects"),
        ('{"task": "LaMP_3", "golds": [null]}', "/predictions.json:1: golds[0]: found null; expected an object"),
        ('{"golds": []}', "/predictions.json:1: field 'task' is missing; expected text"),
        ('{"task": "LaMP_5", "golds": []}', "/predictions.json:1: field 'task' is not LaMP_3"),
        ('{"task": "LaMP_2N", "golds": []}', "/predictions.json:1: field 'task' is not LaMP_3"),
        ('{"task": "LaMP_3"}', "/predictions.json:1: field 'golds' is missing; expected a list of objects"),
        ('{"task": "LaMP_3", "predictions": []}', "/predictions.json:1: field 'golds' is missing; expected a list of objects"),
        ('{"task": "LaMP_3", "golds": ["5"]}', "/predictions.json:1: golds[0]: found text; expected an object"),
        ('{"task": "LaMP_3", "golds": [{"output": "5"}]}', "/predictions.json:1: golds[0]: field 'id' is missing; expected text"),
        ('{"task": "LaMP_3", "golds": [{"id": " ", "output": "5"}]}', "/predictions.json:1: golds[0] (id ' '): field 'id' is empty"),
        ('{"task": "LaMP_3", "golds": [{"id": "1"}]}', "/predictions.json:1: golds[0] (id '1'): field 'output' is missing; expected text"),
        ('{"task": "LaMP_3", "golds": [{"id": "1", "output": 1e999}]}', "/predictions.json:1: golds[0] (id '1'): field 'output' is a number too large"),
        ('{"task": "LaMP_3", "golds": [{"id": "1", "output": "\\ud800"}]}', "/predictions.json:1: golds[0] (id '1'): field 'output' holds half"),
    ],
)
def test_a_malformed_file_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    golds, path = _outputs(tmp_path / "golds.json", {"1": "5"}), tmp_path / "predictions.json"
    path.write_text(text)
    with pytest.raises(BadData) as caught:
        evaluate(OfficialTask.LAMP_3, golds, LampOutputs(DataFile(path)))
    assert str(caught.value).replace(str(tmp_path), "").startswith(message)


def test_an_id_that_occurs_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    """LaMP's script keeps the last one and says nothing."""
    golds = _outputs(tmp_path / "golds.json", {"1": "5"})
    (tmp_path / "predictions.json").write_text('{"task": "LaMP_3", "golds": [{"id": "1", "output": "5"}, {"id": 1, "output": "5"}]}')
    with pytest.raises(BadData, match=r"golds\[1\] \(id 1\): the output's id occurs twice.*golds\[0\] \(id '1'\)"):
        evaluate(OfficialTask.LAMP_3, golds, LampOutputs(DataFile(tmp_path / "predictions.json")))


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["1", "5", "nan", "1e999", "LaMP_3"])
rows = st.lists(st.dictionaries(st.sampled_from(["id", "output", "other"]), values, max_size=3) | values, max_size=3)
files = st.dictionaries(st.sampled_from(["task", "golds"]), rows | values) | st.fixed_dictionaries({"task": st.just("LaMP_3"), "golds": rows})


@given(files | values | rows, st.integers(0, 200), st.binary(max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=400)
def test_any_file_is_evaluated_or_refused(tmp_path: Path, content: Any, at: int, inserted: bytes) -> None:
    written = json.dumps(content).encode()
    (tmp_path / "predictions.json").write_bytes(written[:at] + inserted + written[at:])
    golds = _outputs(tmp_path / "golds.json", {"1": "5"})
    refused = ""
    try:
        mae = evaluate(OfficialTask.LAMP_3, golds, LampOutputs(DataFile(tmp_path / "predictions.json"))).metrics["MAE"]
    except BadData as error:
        refused, mae = str(error), 0.0
    assert 0 <= mae < float("inf")
    assert not refused or ("predictions.json" in refused and "\n" not in refused)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), st.text(st.characters(codec="utf-8"))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_written_is_read(tmp_path: Path, answers: dict[str, str]) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(write_outputs("LaMP_5", answers), encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["task"] == "LaMP_5"
    read = {row["id"]: row["output"] for row in json.loads(path.read_text(encoding="utf-8"))["golds"]}
    assert read == answers
