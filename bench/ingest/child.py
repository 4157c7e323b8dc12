"""Measuring processes that end by themselves and report in JSON on standard output."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from infra.errors import CannotContinue
from infra.process.child import Child


def finished(child: Child, timeout_s: float) -> bytes:
    """What it wrote to its output. Raises CannotContinue if it fails, or does not end in time."""
    assert child.output is not None
    if not child.wait(timeout_s):
        raise CannotContinue(f"{child.name} did not end within {timeout_s:g} s; end of {child.log}:\n{child.last_lines()}")
    if child.exit_code:
        raise CannotContinue(f"{child.name} failed: {child.why_ended()}; end of {child.log}:\n{child.last_lines()}")
    return child.output.read_bytes().splitlines()[-1]


def shown(adapter: TypeAdapter[Any], report: object) -> str:
    """The report in the last line of the output: libraries may print lines before it."""
    return f"\n{adapter.dump_json(report).decode()}\n"
