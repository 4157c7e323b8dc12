"""`retouch profile`: what is written about one user: the newest summary, and the factors with their statistics.

The index of profiles is locked by the streams process, so the command asks that process: it sends a lookup with the purpose `inspect`, and reads the
retrieval. It shows what a query at this moment would get. No answer follows, no call of a model, and no task of the profiles worker.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from cli.ask import what_is_down
from cli.exchange import exchange
from infra.errors import CannotContinue
from infra.local import running_settings
from infra.process.command_output import OK, USAGE, printable, show, show_error, show_json, show_table
from infra.settings import Settings
from schemas.lookups import Lookup, LookupPurpose, Reads, Retrieval
from schemas.queries import Query
from schemas.rpm_texts import statistic_text
from schemas.strategies import Strategy, StrategyChoice
from schemas.topics import LOOKUPS, RETRIEVALS


def profile(settings: Settings, user: str, domain: str, timeout_s: float, as_json: bool) -> int:
    try:
        query = Query(query_id=uuid4(), tenant=settings.tenant, user=user, domain=domain, text="", asked_at=datetime.now(UTC))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        show_error(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        return USAGE
    found = request(running_settings(settings), query, timeout_s)
    show_json(as_data(found)) if as_json else _show(found)
    return OK


def request(settings: Settings, query: Query, timeout_s: float) -> Retrieval:
    """Send the lookup and block for its retrieval. Raises RetryLater or CannotContinue if the broker or the retrieval does not come in time."""
    reads = Reads(summary=True, factors=True)
    lookup = Lookup(query=query, choice=StrategyChoice(strategy=Strategy.RPM), reads=reads, purpose=LookupPurpose.INSPECT)
    found = exchange(
        settings, "profile", LOOKUPS, lookup, lookup.id, RETRIEVALS, Retrieval, lambda found: found.lookup.query.query_id == query.query_id, timeout_s
    )
    if found is None:
        raise CannotContinue(f"the streams process did not respond within {timeout_s:g} s: {what_is_down(settings)}")
    return found


def as_data(found: Retrieval) -> dict[str, Any]:
    """For `--json`. `items`: items of the history whose features are counted."""
    query, factors = found.lookup.query, found.factors
    return {
        "user": query.user,
        "domain": query.domain,
        "items": factors.items if factors else 0,
        "until": factors.until.isoformat() if factors and factors.until else None,
        "statistics_version": factors.version if factors else None,
        "factors": [factor.model_dump(mode="json") for factor in factors.factors] if factors else [],
        "summary": found.summary.model_dump(mode="json", exclude={"kind"}) if found.summary else None,
    }


def _show(found: Retrieval) -> None:
    summary, factors = found.summary, found.factors
    if summary:
        show(f"Summary of {summary.count} items until {summary.until:%Y-%m-%d %H:%M}: {printable(summary.text)}")
    else:
        show("No summary. The user's first query under the strategy pag starts one.")
    if factors is None:
        show("No factors. The user's first query under the strategy rpm starts them.")
        return
    show(f"{len(factors.factors)} factors of {factors.items} items until {factors.until:%Y-%m-%d %H:%M}, statistics {factors.version}")
    show_table(("factor", "statistic"), [(factor.label, statistic_text(factor.statistic)) for factor in factors.factors])
