"""What all bench commands share: the head and the verdict of a report, its files, and progress lines on standard error."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from bench import machine
from bench.targets import Target
from infra.process import output_files
from infra.process.lifecycle import FAILED, OK

T = TypeVar("T")


def report_head(kind: str) -> dict[str, Any]:
    """The first fields of a report. Call it before the measurement starts."""
    return {
        "kind": kind,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average_before": round(os.getloadavg()[0], 2),
        "machine": machine.describe().model_dump(),
    }


def package_versions(*names: str) -> dict[str, str]:
    return {name: version for name, version in machine.versions().items() if name in names}


def verdict(targets: Iterable[Target]) -> dict[str, Any]:
    """The last fields of a report: every target with its figure, and whether all are met."""
    judged = list(targets)
    return {"targets": [target.to_json() for target in judged], "ok": all(target.met for target in judged)}


def target_lines(report: Mapping[str, Any]) -> list[str]:
    return [Target.of(target).line() for target in report["targets"]]


def check_writable(out: Path, *names: str) -> None:
    """Raises CannotContinue if a file cannot be written, before the measurement starts."""
    for name in names:
        output_files.check_writable(out / name)


def publish(report: Mapping[str, Any], file: Path, text: str, as_json: bool) -> int:
    """Writes the report and prints it, or `text`. Exit codes: 0 every target met, 1 one was missed."""
    content = json.dumps(report, indent=1) + "\n"
    output_files.write(file, content)
    sys.stdout.write(content if as_json else text + "\n")
    return OK if report["ok"] else FAILED


def log_progress(command: str, text: str) -> None:
    """A progress line."""
    sys.stderr.write(f"bench {command}: {text}\n")
    sys.stderr.flush()


def timed(command: str, step: str, body: Callable[[], T]) -> T:
    """Runs `body` and logs its duration."""
    began = time.monotonic()
    result = body()
    log_progress(command, f"{step} took {time.monotonic() - began:.1f} s")
    return result


@contextmanager
def png_figure(path: Path, width: float, height: float, title: str) -> Iterator[Any]:
    """A figure of `width` by `height` inches; `path` is written after the block."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    yield figure
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=110)
