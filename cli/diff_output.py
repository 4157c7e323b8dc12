"""Text output of `retouch models diff` (`trainer.judge.difference`). Samples hold users' text; they are printed and not stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cli.models_tables import number
from infra.process.command_output import show, show_table

SOURCES = {"gate": "by the gate that compared them", "now": "by new answers of both to held-out users' questions"}
#: Longer texts are cut; --json has all.
MAX_CHARS = 300


def show_difference(comparison: Mapping[str, Any]) -> None:
    a, b = (f"version {comparison[name]['version']}" for name in ("a", "b"))
    source = SOURCES.get(comparison["way"], comparison["way"])
    show(f"{a} ({comparison['a']['state']}) and {b} ({comparison['b']['state']}), {source}; k={comparison['k']}")
    slices = [(f"slice {name}", figures) for name, figures in comparison["slices"].items()]
    rows = [_row(name, figures) for name, figures in (("all", comparison["overall"]), *comparison["domains"].items(), *slices)]
    show_table(("of", "metric", "users", a, b, "difference and 95 % interval", ""), rows)
    fallen_back = comparison["fallen_back"]
    show(f"fallen back: {a} {number(fallen_back.get('a'))}, {b} {number(fallen_back.get('b'))} of answers")
    for index, sample in enumerate(comparison["samples"], start=1):
        show("")
        labels = (("question", "question"), ("base answer", "draft"), ("the user's own", "truth"), (a, "a"), (b, "b"))
        texts = [(label, _cut(sample[key])) for label, key in labels if sample[key]]
        show_table((f"sample {index}", f"{sample['domain']}, {sample['items']} items of history"), texts)


def _row(name: str, figures: Mapping[str, Any]) -> Sequence[str]:
    mean, low, high = figures["difference"]
    result = "better" if low > 0 else "worse" if high < 0 else "no significant difference"
    interval = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    return name, figures["metric"], str(figures["users"]), number(figures["a"]), number(figures["b"]), interval, result


def _cut(text: Any) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= MAX_CHARS else f"{line[:MAX_CHARS]}..."
