"""What `retouch models diff` prints of `trainer.judge.difference`. Samples are users' words, shown to whoever asked and kept nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cli.models_tables import number
from infra.process.command_output import show, show_table

WAYS = {"gate": "by the gate that compared them", "now": "by what both answered now to held-out users' questions"}
#: Of a longer text a terminal shows the beginning; --json has all.
CHARS = 300


def show_difference(found: Mapping[str, Any]) -> None:
    a, b = (f"version {found[name]['version']}" for name in ("a", "b"))
    show(f"{a} ({found['a']['state']}) and {b} ({found['b']['state']}), {WAYS.get(found['way'], found['way'])}; k={found['k']}")
    parts = [("all", found["overall"]), *found["domains"].items(), *((f"slice {name}", one) for name, one in found["slices"].items())]
    show_table(("of", "metric", "users", a, b, "difference and 95 % interval", ""), [_row(name, one) for name, one in parts])
    fallen_back = found["fallen_back"]
    show(f"fallen back: {a} {number(fallen_back.get('a'))}, {b} {number(fallen_back.get('b'))} of answers")
    for place, sample in enumerate(found["samples"], start=1):
        show("")
        named = (("question", "question"), ("base answer", "draft"), ("the user's own", "truth"), (a, "a"), (b, "b"))
        rows = [(label, _cut(sample[key])) for label, key in named if sample[key]]
        show_table((f"sample {place}", f"{sample['domain']}, {sample['items']} items of history"), rows)


def _row(name: str, one: Mapping[str, Any]) -> Sequence[str]:
    mean, low, high = one["difference"]
    words = "better" if low > 0 else "worse" if high < 0 else "not told apart"
    shown = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    return name, one["metric"], str(one["users"]), number(one["a"]), number(one["b"]), shown, words


def _cut(text: Any) -> str:
    words = " ".join(str(text).split())
    return words if len(words) <= CHARS else f"{words[:CHARS]}..."
