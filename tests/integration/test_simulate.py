"""`retouch lab simulate`: the first seeds here, 500 with `make test-all`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cli.app import app

pytestmark = pytest.mark.timeout(1200)


@pytest.mark.parametrize("seeds", [100, pytest.param(500, marks=pytest.mark.long("each seed is a simulated run"))])
def test_seeds_lose_nothing_and_answer_nothing_twice(seeds: int) -> None:
    result = CliRunner().invoke(app, ["lab", "simulate", "--seeds", str(seeds), "--json"])
    summary = json.loads(result.stdout)
    assert summary["failing"] == []
    assert result.exit_code == 0
    assert summary["process_starts"] > 2 * seeds, "the faults end processes"


def test_a_trace_ends_with_its_result() -> None:
    result = CliRunner().invoke(app, ["lab", "simulate", "--seed", "3", "--trace"])
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith("no anomaly")
