"""A promoter without a registry, and an example view: version 4 is champion and version 5 in canary, after two days."""

from __future__ import annotations

import hashlib
import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.errors import RetouchError
from schemas.ids import derive
from schemas.promotion import CHALLENGING, VersionState
from schemas.promotion_view import PromotionView, VersionTransition
from trainer.promotion.operator_commands import CommandRefused, OperatorCommand

NOW = datetime(2026, 11, 21, 14, 30, 5, tzinfo=UTC)
EXPERIMENT = str(derive("experiment", "example"))


class MemoryPromoter:
    """An `OperatorApi` over a view in memory. Every method raises `trouble` if set; `views` counts the calls of `view`."""

    def __init__(self, view: dict[str, Any]) -> None:
        self.state = view
        self.trouble: RetouchError | None = None
        self.views = 0
        self.workers_follow = True

    def view(self) -> PromotionView:
        self.views += 1
        if self.trouble:
            raise self.trouble
        return PromotionView.model_validate(self.state)

    def execute(self, command: OperatorCommand) -> VersionTransition:
        if command.action == "reject":
            return self._step(command.version, VersionState.REJECTED, command.operator, command.reason)
        if command.action == "promote":
            return self._promote(command.version, command, rolls_back=False)
        if command.version != (self.state["champion"] or ""):
            raise CommandRefused(f"version {self.state['champion']} is champion now")
        former = [version["version"] for version in self.state["versions"] if version["state"] == VersionState.RETIRED]
        if not former or (command.to is not None and command.to not in former):
            raise CommandRefused("there is no such former champion")
        return self._promote(command.to or former[-1], command, rolls_back=True)

    def _promote(self, version: str, command: OperatorCommand, *, rolls_back: bool) -> VersionTransition:
        before = self.state["champion"]
        transition = self._step(version, VersionState.CHAMPION, command.operator, command.reason, replaces=before, rolls_back=rolls_back)
        if before:
            self._step(before, VersionState.REJECTED if rolls_back else VersionState.RETIRED, command.operator, f"gave way to version {version}")
        self.state |= {"champion": version}
        for report in self.state["workers"] if self.workers_follow else ():
            report["champion"] = report["champion"] | {"version": version}
        return transition

    def _step(self, version: str, after: VersionState, operator: str, reason: str, **facts: Any) -> VersionTransition:
        if self.trouble:
            raise self.trouble
        entry = next((entry for entry in self.state["versions"] if entry["version"] == version), None)
        if entry is None:
            raise CommandRefused(f"there is no version {version!r}")
        if entry["state"] in (after, VersionState.REJECTED):
            raise CommandRefused(f"version {version} is {entry['state']} already")
        transition = step(entry, after, datetime.fromisoformat(self.state["at"]), operator, reason, **facts)
        if self.state["challenger"] == version:
            self.state |= {"challenger": None, "experiment": None, "guardrails": []}
        self.state["transitions"].insert(0, {"version": version, **transition})
        return VersionTransition.model_validate({"version": version, **transition})


def step(version: dict[str, Any], after: VersionState, at: datetime, actor: str, reason: str, **facts: Any) -> dict[str, Any]:
    """Append a transition to a version of a view."""
    log = version["transitions"]
    plain: dict[str, Any] = {"experiment": None, "share": 0.0, "replaces": None, "rolls_back": False, "canary_prompts": [], "evidence": {}}
    transition = {
        "seq": len(log) + 1,
        "before": version["state"],
        "after": after.value,
        "at": at.isoformat(),
        "actor": actor,
        "reason": reason,
        **plain,
        **facts,
    }
    log.append(transition)
    version["state"] = after.value
    return transition


def empty_view() -> dict[str, Any]:
    """The view of an empty registry."""
    lists: dict[str, Any] = {name: [] for name in ("versions", "quality", "windows", "guardrails", "workers", "transitions")}
    return {"name": "retouch-reflector", "at": NOW.isoformat(), "champion": None, "challenger": None, "approval": "automatic", "experiment": None, **lists}


def example_view(now: datetime = NOW) -> dict[str, Any]:
    """Six versions in different states."""

    def ago(hours: float) -> datetime:
        return now - timedelta(hours=hours)

    one, two, three, four, five, _six = versions = [version(str(number), ago(hours)) for number, hours in enumerate((47, 40, 31, 22, 7, 0.4), start=1)]
    gain = {"mean": 0.0312, "low": 0.0141, "high": 0.0488}
    passed = "significantly better than the champion: +0.031 [+0.014, +0.049] over 214 held-out users"
    gate = {"users": 214, "overall": gain, "domains": {"movie-tags": gain, "reviews": {"mean": 0.021, "low": -0.004, "high": 0.046}}, "probes": {"leaks": 0}}
    reward = {"difference": 0.0312, "low": 0.0041, "high": 0.0588, "alpha": 0.024}
    canary = {"reward": reward, "arms": {"canary": {"answers": 4210, "scored": 1873}, "baseline": {"answers": 4388, "scored": 1920}}, "guardrails": rails()}
    prompts = [{"prompt": "Question: what next?", "token_ids": [17, 4, 902, 11, 3]}]
    step(one, VersionState.GATED, ago(46.9), "bootstrap", "the first version, from reflection.checkpoint")
    step(one, VersionState.CHAMPION, ago(46.9), "bootstrap", "the first version, from reflection.checkpoint")
    step(two, VersionState.REJECTED, ago(39.8), "promoter", "significantly worse than the champion in reviews: -0.052 [-0.081, -0.023]", evidence=gate)
    for entry, begun, replaced in ((three, 30.8, one), (four, 21.7, three)):
        step(entry, VersionState.GATED, ago(begun), "promoter", passed, evidence=gate, canary_prompts=prompts)
        step(entry, VersionState.SHADOW, ago(begun - 0.01), "promoter", "its turn", experiment=EXPERIMENT, share=0.1)
        step(entry, VersionState.CANARY, ago(begun - 1), "promoter", "200 unseen answers scored, no harm found", experiment=EXPERIMENT, share=0.1)
        step(entry, VersionState.CHAMPION, ago(begun - 4.5), "promoter", "better than the baseline for certain", replaces=replaced["version"], evidence=canary)
        step(replaced, VersionState.RETIRED, ago(begun - 4.5), "promoter", f"gave way to version {entry['version']}")
    step(five, VersionState.GATED, ago(6.8), "promoter", passed, evidence=gate, canary_prompts=prompts)
    step(five, VersionState.SHADOW, ago(6.79), "promoter", "its turn", experiment=EXPERIMENT, share=0.1)
    step(five, VersionState.CANARY, ago(4.2), "promoter", "204 unseen answers scored, no harm found", experiment=EXPERIMENT, share=0.1)
    four["aliases"], five["aliases"] = ["champion"], ["challenger"]
    newest = sorted(
        ((entry["version"], transition) for entry in versions for transition in entry["transitions"]), key=lambda pair: str(pair[1]["at"]), reverse=True
    )
    arms = {
        "canary": {"version": "5", "answers": 4210, "scored": 1873, "users": 412},
        "baseline": {"version": "4", "answers": 4388, "scored": 1920, "users": 428},
    }
    verdict = {"outcome": "running", "reason": "reward +0.014 [-0.009, +0.037] over 840 users: neither better nor worse for certain yet"}
    assert VersionState.CANARY in CHALLENGING
    return empty_view() | {
        "at": now.isoformat(),
        "champion": "4",
        "challenger": "5",
        "experiment": {"id": EXPERIMENT, "version": "5", "stage": "canary", "share": 0.1, "since": ago(4.2).isoformat(), "arms": arms, "verdict": verdict},
        "versions": versions,
        "quality": rewards(),
        "windows": windows(now),
        "guardrails": rails(),
        "workers": [worker(now, number) for number in (1, 2)],
        "comparisons": [comparison(now)],
        "transitions": [{"version": entry, **transition} for entry, transition in newest[:20]],
    }


def version(number: str, created_at: datetime) -> dict[str, Any]:
    return {
        "version": number,
        "digest": hashlib.sha256(number.encode()).hexdigest(),
        "parent": str(int(number) - 1) if int(number) > 1 else None,
        "created_at": created_at.isoformat(),
        "state": VersionState.REGISTERED.value,
        "aliases": [],
        "metrics": {"candidate.score": 0.8123, "champion.score": 0.7811},
        "code_version": "3f1c9aa",
        "dataset_digest": hashlib.sha256(f"data {number}".encode()).hexdigest(),
        "offset_ranges": {"trajectories": {"0": [0, 812], "1": [0, 790]}} if int(number) > 1 else {},
        "tags": {"code_version": "3f1c9aa", "seed": "7"},
        "transitions": [],
    }


def rewards() -> list[dict[str, Any]]:
    means = {("5", "canary"): (0.812, 1873, 412), ("4", "baseline"): (0.798, 1920, 428), ("4", "champion"): (0.801, 15204, 3390)}
    return [
        {
            "version": number,
            "arm": arm,
            "domain": domain,
            "scored": scored // parts,
            "users": users,
            "mean": mean + shift,
            "low": mean - 0.011,
            "high": mean + 0.014,
        }
        for domain, parts, shift in ((None, 1, 0.0), ("movie-tags", 3, -0.004), ("reviews", 2, 0.006))
        for (number, arm), (mean, scored, users) in means.items()
    ]


def windows(now: datetime) -> list[dict[str, Any]]:
    """Windows of ten minutes with realistic noise."""
    noise = random.Random(6)
    lived = [
        ("4", "champion", 17.0, 0.0, 0.795, 0.006),
        ("4", "baseline", 4.2, 0.0, 0.794, 0.02),
        ("5", "canary", 4.2, 0.0, 0.81, 0.02),
        ("5", "shadow", 6.7, 4.2, 0.806, 0.024),
    ]
    rows = []
    for number, arm, begun, ended, mean, spread in lived:
        for index in range(int((begun - ended) * 6)):
            start = now - timedelta(hours=begun) + timedelta(minutes=10 * index)
            middle = mean + 0.006 * math.sin(index / 9) + noise.gauss(0, spread / 3)
            cell = {"started_at": start.isoformat(), "ended_at": (start + timedelta(minutes=10)).isoformat(), "scored": 80}
            rows.append({"version": number, "arm": arm, **cell, "mean": middle, "low": middle - spread, "high": middle + spread})
    return rows


def rails() -> list[dict[str, Any]]:
    rows = [
        ("fallback", 0.012, 0.010, 0.002, -0.006, 0.011, 0.05, "ok"),
        ("unparsable", 0.004, 0.003, 0.001, -0.004, 0.006, 0.05, "ok"),
        ("latency_ms", 186.0, 171.0, 1.09, 0.98, 1.2, 1.5, "ok"),
        ("length", 1.62, 1.05, 1.54, 1.41, 1.68, 1.5, "watching"),
        ("drift", 0.41, 0.38, 0.03, None, None, 0.2, "ok"),
    ]
    return [dict(zip(("metric", "canary", "baseline", "difference", "low", "high", "limit", "state"), row, strict=True)) for row in rows]


def comparison(now: datetime) -> dict[str, Any]:
    """Three strategies after two days: one is better than another, and the third has few answers."""
    facts: dict[str, Any] = {"domain": None, "low": None, "high": None}
    figures = [
        {"strategy": "zero_shot", "mean": 0.64, "answers": 91, "scored": 41, "users": 22, "fallback": 0.0, "latency_ms": 610.0, **facts},
        {"strategy": "rag", **facts, "mean": 0.752, "low": 0.735, "high": 0.769, "answers": 20_112, "scored": 9_120, "users": 2_013, "fallback": 0.06,
         "latency_ms": 655.0},
        {"strategy": "rpo", **facts, "mean": 0.791, "low": 0.774, "high": 0.808, "answers": 20_530, "scored": 9_341, "users": 2_044, "fallback": 0.071,
         "latency_ms": 842.0},
    ]  # fmt: skip
    few = {"verdict": "undecided", "reason": "too few to decide: 41 of 100 scored answers, 22 of 30 users in the smaller group", **facts}
    differences = [
        {"strategy": "rag", "against": "zero_shot", "difference": 0.112, **few},
        {"strategy": "rpo", "against": "zero_shot", "difference": 0.151, **few},
        {"strategy": "rpo", "against": "rag", **facts, "difference": 0.039, "low": 0.014, "high": 0.064, "verdict": "better", "reason": ""},
    ]
    times = {"since": (now - timedelta(days=2)).isoformat(), "until": (now - timedelta(seconds=3)).isoformat()}
    return {"experiment": "autumn", **times, "confidence": 0.95, "strategies": figures, "differences": differences}


def worker(now: datetime, number: int) -> dict[str, Any]:
    def model(entry: str) -> dict[str, str]:
        return {"name": "retouch-reflector", "version": entry, "digest": hashlib.sha256(entry.encode()).hexdigest()}

    refused = [{"model": model("2"), "reason": "version 2: model.safetensors has another digest than registered"}] if number == 2 else []
    report = {"worker": f"reflection-host-{number}", "at": (now - timedelta(seconds=2 * number)).isoformat(), "experiment": EXPERIMENT, "swaps": 5 + number}
    return {**report, "champion": model("4"), "challenger": model("5"), "loaded": [model("4"), model("5")], "refused": refused}
