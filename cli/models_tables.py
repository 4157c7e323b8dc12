"""What `retouch models` says, made from the view that a desk gives (`trainer.promotion.view`). Pure.

Names and reasons come from people and machines elsewhere: whoever shows them makes them `printable` (`infra.process.command_output`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

View = Mapping[str, Any]
RATIOS = frozenset({"latency_ms", "length"})
#: A worker reports every few seconds; beyond this it may be gone.
SILENT_S = 15.0


@dataclass(frozen=True)
class Rows:
    """A table with its title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def versions(view: View) -> Rows:
    columns = ("version", "state", "aliases", "parent", "created", "gate", "online reward")
    rows = [
        (v["version"], v["state"], ", ".join(v["aliases"]), v["parent"] or "", _time(v["created_at"]), gate(v), online(view, v["version"]))
        for v in view["versions"]
    ]
    return Rows("versions", columns, rows)


def everything(view: View) -> Iterator[Rows]:
    """The parts of the page that hold anything, in its order. The newest versions and transitions stand for all."""
    if view["experiment"]:
        yield arms(view["experiment"])
    whole = versions(view)
    yield Rows("versions", _without_gate(whole.columns), [_without_gate(row) for row in whole.rows[-8:]])
    if view["quality"]:
        yield rewards(view)
    if view["guardrails"]:
        yield guardrails(view)
    if view["workers"]:
        yield workers(view)
    if view["transitions"]:
        yield transitions([(step["version"], step) for step in reversed(view["transitions"][:6])])


def _without_gate(row: Sequence[str]) -> Sequence[str]:
    """Transitions say the same."""
    return (*row[:5], row[6])


def arms(experiment: View) -> Rows:
    rows = [(arm, f"version {a['version']}", str(a["answers"]), str(a["scored"]), str(a["users"])) for arm, a in experiment["arms"].items()]
    title = f"{experiment['stage']} of version {experiment['version']}, {experiment['share']:.0%}"
    return Rows(title, ("arm", "answered by", "answers", "scored", "users"), rows)


def rewards(view: View) -> Rows:
    rows = [(q["version"], q["arm"], q["domain"] or "all", str(q["scored"]), str(q["users"]), interval(q)) for q in view["quality"]]
    return Rows("reward", ("version", "arm", "domain", "scored", "users", "mean and 95 % interval"), rows)


def guardrails(view: View) -> Rows:
    rows = []
    for rail in view["guardrails"]:
        sign = "x" if rail["metric"] in RATIOS else "+" if (rail["difference"] or 0) >= 0 else ""
        known = {"mean": rail["difference"], "low": rail["low"], "high": rail["high"]}
        rows.append((rail["metric"], rail["state"], number(rail["canary"]), number(rail["baseline"]), sign + interval(known), number(rail["limit"])))
    return Rows("guardrails", ("metric", "state", "challenger", "baseline", "difference", "limit"), rows)


def workers(view: View) -> Rows:
    rows = []
    for told in view["workers"]:
        loaded = ", ".join(model["version"] for model in told["loaded"])
        challenger = told["challenger"]["version"] if told["challenger"] else ""
        refused = "; ".join(f"version {refusal['model']['version']}: {refusal['reason']}" for refusal in told["refused"])
        rows.append((told["worker"], told["champion"]["version"], challenger, loaded, str(told["swaps"]), refused, f"{age_s(view, told):.0f} s ago"))
    return Rows("workers", ("worker", "champion", "challenger", "loaded", "swaps", "refuses", "reported"), rows)


def transitions(steps: Sequence[tuple[str, View]]) -> Rows:
    """Oldest first as given; `steps` are versions with what happened to them."""
    rows = [(_time(s["at"]), version, f"{s['before']} -> {s['after']}", s["actor"], s["reason"]) for version, s in steps]
    return Rows("transitions", ("at", "version", "step", "by", "why"), rows)


def headline(view: View) -> str:
    """Who serves and who is tried, in a sentence."""
    serves = f"version {view['champion']} serves" if view["champion"] else "no version is champion yet"
    found = view["experiment"]
    if not found:
        return f"{serves}; none is tried"
    verdict = found["verdict"]
    return f"{serves}; version {found['version']} is in {found['stage']}: {verdict['outcome']}, {verdict['reason']}" if verdict else serves


def gate(version: View) -> str:
    """What the newest gate said of a version."""
    judged = next((step for step in reversed(version["transitions"]) if step["before"] == "registered"), None)
    return f"{judged['after']}: {judged['reason']}" if judged else "not judged yet"


def online(view: View, version: str) -> str:
    """What a version's answers are worth now, by arm."""
    return "; ".join(f"{interval(q)} {q['arm']}" for q in view["quality"] if q["version"] == version and q["domain"] is None and q["scored"])


def evidence(step: View) -> str:
    """The figures of one step at the top of its evidence, in short."""
    return ", ".join(f"{name} {number(value)}" for name, value in step["evidence"].items() if isinstance(value, int | float))


def interval(found: View) -> str:
    """`mean [low, high]`, as far as they are known."""
    known = found["low"] is not None and found["high"] is not None
    return number(found["mean"]) + (f" [{number(found['low'])}, {number(found['high'])}]" if known else "")


def number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}"


def age_s(view: View, told: View) -> float:
    """How long before the view was made a worker reported."""
    return max(0.0, (datetime.fromisoformat(view["at"]) - datetime.fromisoformat(told["at"])).total_seconds())


def _time(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
