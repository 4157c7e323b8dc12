"""`retouch lab simulate`, with the seeds that every change of the runtime must pass."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cli.app import app

pytestmark = pytest.mark.timeout(1200)


def test_500_seeds_lose_nothing_and_answer_nothing_twice() -> None:
    result = CliRunner().invoke(app, ["lab", "simulate", "--seeds", "500", "--json"])
    summary = json.loads(result.stdout)
    assert summary["failing"] == []
    assert result.exit_code == 0
    assert summary["process_starts"] > 1000, "the faults end processes"


def test_a_trace_ends_with_its_result() -> None:
    result = CliRunner().invoke(app, ["lab", "simulate", "--seed", "3", "--trace"])
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith("no anomaly")
