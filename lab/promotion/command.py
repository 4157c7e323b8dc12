"""`retouch lab promotion`: kills promoters at every boundary between two writes, and promoter, worker and registry on a running system; writes a report."""

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
#: Maximum number of anomalies shown.
MAX_SHOWN = 5


def run(settings: Settings, *, kills: int, live: int, seed: int, out: Path | None, as_json: bool) -> int:
    """Exit code 0 without anomalies, else 1. Raises BadSetting if `kills` and `live` are both 0."""
    if not kills and not live:
        raise BadSetting("--kills and --live are both 0: set one of them to a positive number")
    if out:
        output_files.check_writable(out / REPORT)
    with _folder(out) as folder:
        report = measure(settings, folder, kills=kills, live=live, seed=seed)
    if out:
        output_files.write(out / REPORT, json.dumps(report, indent=1) + "\n")
    sys.stdout.write(json.dumps(report, indent=1) + "\n" if as_json else "\n".join(lines(report)) + "\n")
    return FAILED if report["anomalies"] else OK


def measure(settings: Settings, folder: Path, *, kills: int, live: int, seed: int) -> dict[str, Any]:
    """Runs both parts, without one that has no kills. Registries and logs lie in `folder`."""
    began = time.monotonic()
    parts: dict[str, dict[str, Any]] = {}
    if kills:
        (folder / "boundaries").mkdir()
        parts["boundaries"] = boundaries.run_boundaries(settings, folder / "boundaries", kills)
    if live:
        parts["live"] = running.run_live(settings, folder / "live", cases(live, seed), seed, _log)
    total = Counter[str]()
    for part in parts.values():
        total.update(part["kills"])
    anomalies = [anomaly for part in parts.values() for anomaly in part["anomalies"]]
    return {"seed": seed, "kills": dict(total), "anomalies": anomalies, **parts, "seconds": round(time.monotonic() - began, 1)}


def lines(report: dict[str, Any]) -> list[str]:
    """The report as text."""
    text = []
    if part := report.get("boundaries"):
        text += [f"{name}: {scenario['kills']} kills, {scenario['writes']} writes, ends {scenario['ends']}" for name, scenario in part["scenarios"].items()]
    if part := report.get("live"):
        answers, recoveries = part["answers"], part["recoveries_s"]
        text.append(f"running system: {len(part['cases'])} versions, {answers['asked']} questions, {answers['shown']} answers, {answers['unseen']} unseen ones")
        text += [f"{name}: {kills} kills" + _back(recoveries.get(name)) for name, kills in part["kills"].items()]
    text += [f"  {anomaly}" for anomaly in report["anomalies"][:MAX_SHOWN]]
    kills = ", ".join(f"{count} {name}" for name, count in report["kills"].items())
    return [*text, f"{sum(report['kills'].values())} kills ({kills}) in {report['seconds']:g} s: {len(report['anomalies'])} anomalies"]


def _back(recovery: dict[str, float] | None) -> str:
    return f", back in {recovery['median']:.1f} s, at most {recovery['max']:.1f} s" if recovery else ""


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield fresh_state(out, command="retouch lab promotion", run="run")
        return
    with tempfile.TemporaryDirectory(prefix="retouch-promotion-") as temporary:
        yield Path(temporary)


def _log(line: str) -> None:
    sys.stderr.write(f"promotion: {line}\n")
