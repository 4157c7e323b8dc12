"""Compares the settings of one topic with the declared ones, and says what each difference does to records. Pure.

Compared is what deletes records, refuses them, or rewrites their times, with the broker's defaults where the topic sets nothing. Not compared is what only
decides when or how records lie on disk: `compression.type` (a reader gets the same record), `segment.*` of topics that are not compacted and
`file.delete.delay.ms` (they delete later, never sooner), `local.retention.*` (older records are in the remote store), `flush.*`, `min.compaction.lag.ms`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

COMPARED = (
    "cleanup.policy",
    "retention.ms",
    "retention.bytes",
    "remote.storage.enable",
    "delete.retention.ms",
    "segment.bytes",
    "message.timestamp.type",
    "message.timestamp.before.max.ms",
    "message.timestamp.after.max.ms",
    "message.timestamp.difference.max.ms",
    "max.message.bytes",
    "min.insync.replicas",
    "unclean.leader.election.enable",
)
#: `min.insync.replicas` of topics with more replicas than this.
MIN_IN_SYNC = 2
#: Kafka's default of `message.timestamp.after.max.ms`: clocks of producers differ.
AFTER_MAX_MS = 3_600_000
#: Kafka writes "no limit" as -1, or as the largest number.
NO_LIMIT = 2**63 - 1


class Severity(StrEnum):
    LOSES = "loses"  # records, or their times, are or will be lost
    REFUSES = "refuses"  # the broker refuses records that were written under the declared settings
    DIFFERS = "differs"  # nothing is lost


@dataclass(frozen=True)
class Difference:
    """One setting whose value is not the declared one, and what that does."""

    name: str
    declared: str
    actual: str
    severity: Severity
    effect: str

    @property
    def is_harmful(self) -> bool:
        return self.severity is not Severity.DIFFERS

    def __str__(self) -> str:
        return f"{self.name} is {self.actual}, declared {self.declared}: {self.effect}"


def compare(declared: Mapping[str, str], actual: Mapping[str, str], replicas: int) -> tuple[Difference, ...]:
    """The differences of a topic whose records lie on `replicas` brokers. `actual` may lack settings that an older broker does not have."""
    policies = _policies(actual.get("cleanup.policy", declared["cleanup.policy"]))
    comparison = _Comparison(declared, actual, policies)
    return (*comparison.deletes(), *comparison.compacts(), *comparison.times(), *comparison.sizes(), *_durability(actual, replicas))


@dataclass(frozen=True)
class _Comparison:
    declared: Mapping[str, str]
    actual: Mapping[str, str]
    policies: frozenset[str]

    def deletes(self) -> Iterator[Difference]:
        declared = _policies(self.declared["cleanup.policy"])
        deletes_more = "delete" in self.policies - declared and (self._limit("retention.ms") < NO_LIMIT or self._limit("retention.bytes") < NO_LIMIT)
        if "compact" in self.policies - declared:
            yield self._difference("cleanup.policy", Severity.LOSES, "only the last record of each key is kept: earlier records of a user are lost")
        elif deletes_more:
            yield self._difference("cleanup.policy", Severity.LOSES, "the last record of a key is deleted and lost too, at the limits of retention")
        elif self.policies != declared:
            yield self._difference("cleanup.policy", Severity.DIFFERS, "records are kept that the declared policy removes")
        if "retention.ms" in self.declared:
            is_less = self._limit("retention.ms") < _limit(self.declared["retention.ms"])
            yield from self._lower("retention.ms", is_less, f"records older than {duration(self._limit('retention.ms'))} are deleted and lost")
        is_less = self._limit("retention.bytes") < NO_LIMIT
        yield from self._lower(
            "retention.bytes", is_less, f"records beyond {size(self._limit('retention.bytes'))} of a partition are deleted and lost, the oldest first"
        )
        if self.actual.get("remote.storage.enable") == "true":
            yield Difference("remote.storage.enable", "false", "true", Severity.DIFFERS, "older records are read from the remote store, which is slower")

    def compacts(self) -> Iterator[Difference]:
        if "compact" not in self.policies or "delete.retention.ms" not in self.declared:
            return
        if self._limit("delete.retention.ms") != _limit(self.declared["delete.retention.ms"]):
            is_less = self._limit("delete.retention.ms") < _limit(self.declared["delete.retention.ms"])
            effect = f"a reader that is away for more than {duration(self._limit('delete.retention.ms'))} misses deletions"
            if is_less:
                yield self._difference("delete.retention.ms", Severity.LOSES, effect)
            else:
                yield self._difference("delete.retention.ms", Severity.DIFFERS, "tombstones are kept longer")
        if "segment.bytes" in self.declared and self.actual.get("segment.bytes") not in (None, self.declared["segment.bytes"]):
            yield self._difference("segment.bytes", Severity.DIFFERS, "compaction begins earlier or later: readers from the beginning read less or more")

    def times(self) -> Iterator[Difference]:
        if self.actual.get("message.timestamp.type", "CreateTime") != "CreateTime":
            effect = "the broker replaces the time of each record by its arrival: the producers' times are lost, and redriven records look new"
            yield Difference("message.timestamp.type", "CreateTime", self.actual["message.timestamp.type"], Severity.LOSES, effect)
        for name in ("message.timestamp.before.max.ms", "message.timestamp.difference.max.ms"):
            if (limit := _limit(self.actual.get(name, "-1"))) < NO_LIMIT:
                effect = f"records whose time is more than {duration(limit)} ago are refused, such as redriven dead letters"
                yield Difference(name, "no limit", self.actual[name], Severity.REFUSES, effect)
        if (limit := _limit(self.actual.get("message.timestamp.after.max.ms", "-1"))) < AFTER_MAX_MS:
            effect = f"records of a producer whose clock is more than {duration(limit)} ahead are refused"
            yield Difference("message.timestamp.after.max.ms", str(AFTER_MAX_MS), str(limit), Severity.REFUSES, effect)

    def sizes(self) -> Iterator[Difference]:
        declared, actual = int(self.declared.get("max.message.bytes", 0)), int(self.actual.get("max.message.bytes", self.declared.get("max.message.bytes", 0)))
        if declared and actual < declared:
            yield self._difference("max.message.bytes", Severity.REFUSES, f"records of more than {size(actual)} are refused")
        elif declared and actual > declared:
            yield self._difference("max.message.bytes", Severity.DIFFERS, "larger records are taken")

    def _lower(self, name: str, is_less: bool, effect: str) -> Iterator[Difference]:
        """A limit that deletes. It has an effect only if the policy deletes."""
        if is_less and "delete" in self.policies:
            yield self._difference(name, Severity.LOSES, effect)
        elif is_less:
            yield self._difference(name, Severity.DIFFERS, "no effect while cleanup.policy does not delete")
        elif self._limit(name) > _limit(self.declared.get(name, "-1")):
            yield self._difference(name, Severity.DIFFERS, "records are kept longer")

    def _difference(self, name: str, severity: Severity, effect: str) -> Difference:
        return Difference(name, self.declared.get(name, "-1"), self.actual[name], severity, effect)

    def _limit(self, name: str) -> int:
        return _limit(self.actual.get(name, self.declared.get(name, "-1")))


def durability(replicas: int) -> dict[str, str]:
    """The declared settings of a topic with so many replicas: from three on a record is acknowledged when two brokers have it, so one may be away."""
    return {"min.insync.replicas": str(MIN_IN_SYNC)} if replicas > MIN_IN_SYNC else {}


def _durability(actual: Mapping[str, str], replicas: int) -> Iterator[Difference]:
    """Against the replicas that the topic has. A setting that one replica makes meaningless is no difference."""
    in_sync = int(actual.get("min.insync.replicas", "1"))
    if in_sync > replicas:
        effect = f"every record is refused: the topic has {replicas} replica{'s' if replicas > 1 else ''}"
        yield Difference("min.insync.replicas", f"at most {replicas}", str(in_sync), Severity.REFUSES, effect)
    elif replicas > MIN_IN_SYNC > in_sync:
        effect = "an acknowledged record may be on one broker only, and is lost with its disk"
        yield Difference("min.insync.replicas", str(MIN_IN_SYNC), str(in_sync), Severity.DIFFERS, effect)
    if replicas > 1 and actual.get("unclean.leader.election.enable") == "true":
        effect = "after a failure a replica that lacks acknowledged records may lead: these records are lost"
        yield Difference("unclean.leader.election.enable", "false", "true", Severity.LOSES, effect)


def _policies(text: str) -> frozenset[str]:
    return frozenset(policy.strip() for policy in text.split(",")) - {""}


def _limit(text: str) -> int:
    return NO_LIMIT if int(text) < 0 else int(text)


def size(count: int) -> str:
    """Bytes as a person reads them."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << power:
            return f"{count / (1 << power):.4g} {unit}"
    return f"{count} bytes"


def duration(ms: int) -> str:
    """Milliseconds as a person reads them."""
    for length, unit in ((86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (1_000, "second")):
        if ms >= length:
            return f"{ms / length:.4g} {unit}{'' if ms == length else 's'}"
    return f"{ms} ms"
