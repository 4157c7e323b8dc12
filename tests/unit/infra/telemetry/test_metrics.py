"""The instruments, and that every metric is declared."""

from __future__ import annotations

import ast
import re
import threading
import tomllib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest

from infra.telemetry import metrics
from infra.telemetry.instruments import Counter, Gauge, Histogram, Instrument
from infra.telemetry.metrics import METRICS

ROOT = Path(__file__).parents[4]
CODE: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
PAGE = ROOT / "infra" / "README.md"


class Colour(StrEnum):
    RED = "red"


def test_adds_from_many_threads_are_all_counted() -> None:
    counter = Counter("retouch_tests", "{test}", "", ["who"])

    def count() -> None:
        for _ in range(2_000):
            counter.add(who="all")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert counter.values() == {(("who", "all"),): 16_000}


@pytest.mark.parametrize("labels", [{}, {"colour": "red", "size": "1"}, {"size": "1"}, {"colour": "blue"}])
def test_labels_that_are_not_declared_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="retouch_tests"):
        Counter("retouch_tests", "{test}", "", ["colour"], {"colour": Colour}).add(**labels)


def test_a_gauge_removes_series() -> None:
    lag = Gauge("retouch_tests", "{test}", "", ["topic", "partition"])
    for partition in ("0", "1"):
        lag.set(5, topic="a", partition=partition)
    lag.set(7, topic="b", partition="0")
    lag.remove(topic="a", partition="0")
    assert list(lag.values().values()) == [5, 7]
    lag.remove(topic="a")
    assert list(lag.values().values()) == [7]
    lag.set_only(1, topic="c", partition="2")
    assert lag.values() == {(("partition", "2"), ("topic", "c")): 1}
    lag.remove()
    assert not lag.values()


def test_a_bound_is_the_largest_value_of_its_bucket() -> None:
    spread = Histogram("retouch_tests", "ms", "", bounds=[1, 10])
    for value in (0.5, 1, 2, 10, 11):
        spread.record(value)
    (distribution,) = spread.values().values()
    assert (distribution.buckets, distribution.count, distribution.sum, distribution.min, distribution.max) == ([2, 2, 1], 5, 24.5, 0.5, 11)


def test_each_metric_name_is_declared_once_and_listed() -> None:
    declared = [metric for metric in vars(metrics).values() if isinstance(metric, Instrument)]
    assert declared == list(METRICS)
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert all(metric.name.startswith(("retouch_", "gen_ai.client.")) and metric.unit and metric.meaning for metric in METRICS)


def test_no_other_module_declares_a_metric() -> None:
    for path in code():
        if path.parent.name == "telemetry":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            imported = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name and (name.startswith("opentelemetry") or name == "infra.telemetry.instruments") for name in imported), path


def test_every_name_of_a_metric_in_code_is_declared() -> None:
    declared = {metric.name for metric in METRICS}
    names = re.compile(r"retouch_(?:worker|streams|teacher|responses|reflection|breaker|quality|promotion)_\w+")
    for path in code():
        unknown = set(names.findall(path.read_text())) - declared
        assert not unknown, f"{path}: {unknown}"


def test_the_page_lists_every_metric() -> None:
    rows = [f"| `{m.name}` | {m.kind} | {m.unit} | {', '.join(m.labels)} | {m.meaning} |" for m in METRICS]
    listed = [line for line in PAGE.read_text().splitlines() if line.startswith(("| `retouch_", "| `gen_ai."))]
    assert listed == rows, "infra/README.md should hold:\n" + "\n".join(rows)


def code() -> Iterator[Path]:
    for package in CODE:
        yield from (ROOT / package).rglob("*.py")
