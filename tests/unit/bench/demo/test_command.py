from __future__ import annotations

from pathlib import Path

import pytest

from bench.demo.command import fresh_state, prepared, run
from bench.demo.plan import FULL, SHORT, DemoPlan
from infra.errors import BadSetting, CannotContinue
from infra.local.fresh_state import MARKER
from infra.local.stack_record import StackRecord, StackState, stack_lock
from infra.process.lifecycle import FAILED
from infra.settings import Settings
from traffic.plan import TrafficPlan as Traffic


def test_the_state_of_an_earlier_run_is_removed(tmp_path: Path) -> None:
    state = fresh_state(tmp_path)
    (state / "left-over").touch()
    assert not (fresh_state(tmp_path) / "left-over").exists()


def test_a_state_directory_of_other_origin_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    thesis = tmp_path / "state" / "thesis.tex"
    thesis.touch()
    with pytest.raises(CannotContinue, match=r"/state is not from an earlier demonstration .* move it away"):
        fresh_state(tmp_path)
    assert thesis.exists()


def test_a_stack_record_or_an_empty_directory_counts_as_the_demo_s(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    assert fresh_state(tmp_path) == state
    (state / MARKER).unlink()
    StackRecord(state=StackState.FAILED, pid=1, bootstrap_servers=None, base_url=None, processes=()).write(state)
    assert [path.name for path in fresh_state(tmp_path).iterdir()] == [MARKER]


def test_the_state_of_a_running_stack_is_left_alone(tmp_path: Path) -> None:
    state = fresh_state(tmp_path)
    lock = stack_lock(state)
    lock.acquire()
    with pytest.raises(CannotContinue, match="a stack runs in"):
        fresh_state(tmp_path)
    lock.release()


def test_an_unwritable_out_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotContinue, match="choose another --out"):
        fresh_state(tmp_path / "file")


def test_an_unwritable_report_stops_a_run_before_it_removes_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fresh_state(tmp_path) / "left-over").touch()
    (tmp_path / "report.html").mkdir()
    assert run(Settings(), tmp_path, short=True) == FAILED
    assert "report.html: Is a directory; choose another --out" in capsys.readouterr().err
    assert (tmp_path / "state" / "left-over").exists()


def test_stores_of_others_are_refused_before_anything_is_removed(tmp_path: Path) -> None:
    (fresh_state(tmp_path) / "left-over").touch()
    with pytest.raises(BadSetting, match="must not be set"):
        run(Settings().changed(registry={"tracking_uri": "https://mlflow.example"}), tmp_path, short=True)
    assert (tmp_path / "state" / "left-over").exists()


@pytest.mark.parametrize("plan", [FULL, SHORT])
def test_a_plan_s_settings_and_sizes_exist(plan: DemoPlan, tmp_path: Path) -> None:
    settings = prepared(Settings(), plan, tmp_path, seed=7)
    assert Settings.model_validate(settings.model_dump()) == settings
    assert (settings.stack.dir, settings.trainer.seed) == (tmp_path, 7)
    assert Traffic(users=plan.users, history=plan.history, learn=plan.learn, exam=plan.exam).users == plan.users


def test_other_settings_of_the_user_stay(tmp_path: Path) -> None:
    given = Settings.model_validate({"kafka": {"partitions": 2}})
    assert prepared(given, SHORT, tmp_path, 0).kafka.partitions == 2


@pytest.mark.parametrize(("given", "used"), [("ERROR", "INFO"), ("DEBUG", "DEBUG")])
def test_the_log_lines_that_swaps_are_measured_from_are_always_written(given: str, used: str, tmp_path: Path) -> None:
    assert prepared(Settings.model_validate({"log_level": given}), SHORT, tmp_path, 0).log_level == used
