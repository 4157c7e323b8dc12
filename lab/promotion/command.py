"""`retouch lab promotion`: promoters killed at every boundary between two writes, and promoter, worker and registry on a running system; what came of it."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.errors import BadSetting
from infra.local.fresh_state import fresh_state
from infra.process import output_files
from infra.process.lifecycle import FAILED, OK
from infra.settings import Settings
from lab.promotion import boundaries
from lab.promotion.live import experiment as running
from lab.promotion.live.scenarios import cases

REPORT = "report.json"
#: Shown of what went wrong.
SHOWN = 5


def run(settings: Settings, *, kills: int, live: int, seed: int, out: Path | None, as_json: bool) -> int:
    """Exit code 0 where every run ends as the one without kills and nothing was wrong in between, else 1. Raises BadSetting where nobody is to be killed."""
    if not kills and not live:
        raise BadSetting("--kills and --live are both 0: nobody would be killed, and nothing shown")
    if out:
        output_files.check_writable(out / REPORT)
    with _workplace(out) as place:
        report = measure(settings, place, kills=kills, live=live, seed=seed)
    if out:
        output_files.write(out / REPORT, json.dumps(report, indent=1) + "\n")
    sys.stdout.write(json.dumps(report, indent=1) + "\n" if as_json else "\n".join(lines(report)) + "\n")
    return FAILED if report["anomalies"] else OK


def measure(settings: Settings, place: Path, *, kills: int, live: int, seed: int) -> dict[str, Any]:
    """Both parts; one that is to have no kills is left out. Their registries and logs lie in `place`."""
    began = time.monotonic()
    parts: dict[str, dict[str, Any]] = {}
    if kills:
        (place / "boundaries").mkdir()
        parts["boundaries"] = boundaries.experiment(settings, place / "boundaries", kills)
    if live:
        parts["live"] = running.live(settings, place / "live", cases(live, seed), seed, _tell)
    total = Counter[str]()
    for part in parts.values():
        total.update(part["kills"])
    anomalies = [told for part in parts.values() for told in part["anomalies"]]
    return {"seed": seed, "kills": dict(total), "anomalies": anomalies, **parts, "seconds": round(time.monotonic() - began, 1)}


def lines(report: dict[str, Any]) -> list[str]:
    """For a person."""
    told = []
    if part := report.get("boundaries"):
        told += [f"{name}: {found['kills']} kills, {found['writes']} writes, ends {found['ends']}" for name, found in part["scenarios"].items()]
    if part := report.get("live"):
        answers, recoveries = part["answers"], part["recoveries_s"]
        told.append(f"running system: {len(part['cases'])} versions, {answers['asked']} questions, {answers['shown']} answers, {answers['unseen']} unseen ones")
        told += [f"{name}: {kills} kills" + _back(recoveries.get(name)) for name, kills in part["kills"].items()]
    told += [f"  {anomaly}" for anomaly in report["anomalies"][:SHOWN]]
    kills = ", ".join(f"{count} {name}" for name, count in report["kills"].items())
    return [*told, f"{sum(report['kills'].values())} kills ({kills}) in {report['seconds']:g} s: {len(report['anomalies'])} anomalies"]


def _back(recovery: dict[str, float] | None) -> str:
    return f", back in {recovery['median']:.1f} s, at most {recovery['max']:.1f} s" if recovery else ""


@contextmanager
def _workplace(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield fresh_state(out, command="retouch lab promotion", run="run")
        return
    with tempfile.TemporaryDirectory(prefix="retouch-promotion-") as made:
        yield Path(made)


def _tell(line: str) -> None:
    sys.stderr.write(f"promotion: {line}\n")
