"""Measures how long interactions take until a search finds them: from the record's Kafka timestamp to the end of the index's write.

The Kafka timestamp is when the platform sent the record (`CreateTime`), or when the broker stored it (`LogAppendTime`), so this pipeline is measured.
`occurred_at` is when the user acted: a platform that sends last year's history today is not a slow pipeline.

Old logs are not measured:

- records from before the process began to fill an empty index from the log. Those that are sent meanwhile are measured, because they wait for the filling;
- records with a timestamp of more than OLD_S ago: copies that keep their old timestamps, or the rest of a filling that was interrupted. A record that really
  waited for a day has fired `RetouchRecordsWait`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from infra.telemetry.metrics import FRESHNESS, FRESHNESS_SLO, SloOutcome
from schemas.records import ConsumedRecord
from streams.index.tenant_filter import IndexPoint

OLD_S = 86_400.0
#: Domains with series of their own; those that come later share the label OTHER_DOMAINS, which is no name of a domain.
MAX_DOMAINS = 100
OTHER_DOMAINS = "_other"


class Freshness:
    """`slo_s` is `streams.freshness_slo_s`. `filling_since`: when the process began to fill an empty index, in Unix time; None: it does not fill one."""

    def __init__(self, slo_s: float, filling_since: float | None = None, now: Callable[[], float] = time.time) -> None:
        self._slo_s, self._filling_since, self._now = slo_s, filling_since or 0.0, now
        self._domains: set[str] = set()

    def indexed(self, records: Sequence[ConsumedRecord], points: Sequence[IndexPoint]) -> None:
        """The index has these points, each of which is made from one of the records. A point that is written again is measured again."""
        now = self._now()
        timestamps_s = {(record.partition, record.offset): record.timestamp_ms / 1000 for record in records}
        for point in points:
            timestamp_s = timestamps_s[point.source.partition, point.source.offset]
            if timestamp_s < max(0.0, self._filling_since, now - OLD_S):  # a record without a timestamp has a negative one
                continue
            age_s, domain = max(0.0, now - timestamp_s), self._label(point.interaction.domain)
            FRESHNESS.record(age_s, domain=domain)
            FRESHNESS_SLO.add(domain=domain, outcome=SloOutcome.MET if age_s <= self._slo_s else SloOutcome.MISSED)

    def _label(self, domain: str) -> str:
        if domain not in self._domains and len(self._domains) >= MAX_DOMAINS:
            return OTHER_DOMAINS
        self._domains.add(domain)
        return domain
