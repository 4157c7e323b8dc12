"""What the promoter's API returns and accepts: the promotion view, the page's excerpt of it, and operator commands.

`python -m scripts.page_schema` writes the JSON Schema of `PageView`, which the page's test checks the page against.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, Field

from schemas.comparison_view import ComparisonView, StrategyTraffic
from schemas.experiments import Arm
from schemas.messages import AwareDatetime
from schemas.model_events import Alias
from schemas.promotion import REASON_CHARS, Transition, VersionState
from schemas.quality import Metric
from schemas.serving import ServingReport
from schemas.view_parts import IsoDatetime, RewardInterval, ViewPart

#: Operators write text that is shown on terminals, where control characters are commands.
Printable = Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")
VersionNumber = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}$")]


class VerdictOutcome(StrEnum):
    """Result of the test on one experiment."""

    RUNNING = "running"  # not decided yet
    BETTER = "better"  # than the baseline; canary only
    HARMFUL = "harmful"
    PASSED = "passed"  # shadow only: enough answers, and no harm found
    INCONCLUSIVE = "inconclusive"  # the maximum of answers or time is reached


class Guardrail(ViewPart):
    """One metric of the challenger (`canary`) against the champion's (`baseline`); both are None without answers.

    `difference`, `low`, `high` and `limit` are differences; for latency and length they are ratios. An infinite bound is None.
    """

    metric: Metric
    canary: float | None
    baseline: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float
    state: Literal["ok", "watching", "tripped"] = "ok"  # watching: beyond the limit, which may still be chance


class ArmView(ViewPart):
    """Number of answers in one arm of the experiment."""

    version: str | None
    answers: int
    scored: int
    users: int


class VerdictView(ViewPart):
    outcome: VerdictOutcome
    reason: str


class ExperimentView(ViewPart):
    """The current stage of the challenger."""

    id: UUID
    version: str
    stage: VersionState
    share: float  # of users; in shadow of questions
    since: IsoDatetime
    arms: Mapping[Arm, ArmView]
    verdict: VerdictView


class VersionTransition(Transition):
    """A transition with the number of its version; also the reply to an operator command."""

    version: str

    @classmethod
    def of(cls, version: str, transition: Transition) -> Self:
        return cls(version=version, **dict(transition))


class PageTransition(ViewPart):
    """The fields of a version's transition that the page shows."""

    seq: int
    before: VersionState
    after: VersionState
    at: AwareDatetime
    reason: str


class VersionBase(ViewPart):
    """The part of a version that both views share."""

    version: str
    digest: str
    parent: str | None
    created_at: IsoDatetime
    state: VersionState  # derived from the histories of all versions
    aliases: tuple[Alias, ...]


class PageVersion(VersionBase):
    """The fields of a version that the page shows."""

    transitions: tuple[PageTransition, ...]


class VersionView(VersionBase):
    """One version with its whole history."""

    metrics: Mapping[str, float | None]
    code_version: str | None
    dataset_digest: str | None
    offset_ranges: Mapping[str, Mapping[str, tuple[int, int]]]  # by topic and partition
    tags: Mapping[str, str]
    transitions: tuple[Transition, ...]


class RewardView(RewardInterval):
    """Reward of one version in one arm and domain; domain None means all domains."""

    version: str
    arm: Arm
    domain: str | None
    users: int


class WindowView(RewardInterval):
    """Reward of one version in one arm and time window."""

    version: str
    arm: Arm
    started_at: IsoDatetime
    ended_at: IsoDatetime


class PromotionSummary(ViewPart):
    """The part that both views share. `at` is when the promoter last read the registry."""

    name: str  # of the registered model
    at: IsoDatetime
    champion: str | None
    challenger: str | None
    approval: Literal["automatic", "person"]
    experiment: ExperimentView | None
    quality: tuple[RewardView, ...]
    windows: tuple[WindowView, ...]
    guardrails: tuple[Guardrail, ...]
    workers: tuple[ServingReport, ...]
    transitions: tuple[VersionTransition, ...]  # of all versions, the newest first
    comparisons: tuple[ComparisonView, ...] = ()  # of strategies, the one with the newest answers first


class PromotionView(PromotionSummary):
    """Everything the promoter publishes: `GET /api/state` and `retouch models`."""

    versions: tuple[VersionView, ...]
    strategies: tuple[StrategyTraffic, ...] = ()


class PageView(PromotionSummary):
    """What the page polls: `GET /api/page`. Of the comparisons it has the newest, over all domains."""

    versions: tuple[PageVersion, ...]


class OperatorRequest(BaseModel, frozen=True, extra="forbid"):
    """Body of an operator command. The bounds are those of a Transition."""

    operator: Annotated[str, Field(min_length=1, max_length=64), Printable]
    reason: Annotated[str, Field(max_length=REASON_CHARS), Printable] = ""
    confirm: VersionNumber  # the version that changes; for a rollback the champion to reject
    to: VersionNumber | None = None  # rollback only: the former champion to serve


class ApiError(ViewPart):
    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(ViewPart):
    """Body of every reply with an error status."""

    error: ApiError
