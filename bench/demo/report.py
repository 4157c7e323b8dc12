"""What `report.json` says: one frozen model per part, every figure measured in that run.

Scores lie in 0..1 and higher is better: the share of right labels, one minus a rating's error over 4, the style's ROUGE.
Seconds count from the start of the run unless a name says otherwise.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

#: The wire name of the file, so that whoever reads it later knows its shape.
KIND = "retouch.demo-report.v1"


class ReportModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Significance(StrEnum):
    """What a 95 % interval of a difference says."""

    BETTER = "significantly better"
    SAME = "no significant difference"
    WORSE = "significantly worse"

    @classmethod
    def of(cls, interval: Interval) -> Significance:
        low, high = interval
        if low > 0:
            return cls.BETTER
        return cls.WORSE if high < 0 else cls.SAME


Interval = tuple[float, float]


class RecordCounts(ReportModel):
    """Records on the topics, counted by a reader of its own from offset 0 of every partition, committed records only."""

    interactions: int
    queries: int
    responses: int
    feedback: int
    outcomes: int
    trajectories: int
    model_events: int
    dead_letters: dict[str, int]  # by topic; topics without one are listed with 0
    unreadable: int  # records that are not a message of their topic
    lost: int  # queries, by the platform's own list and by the topic, that have no response
    duplicated: int  # queries with more than one response record


class ArmScores(ReportModel):
    """One arm of the comparison: the mean over held-out users of each user's mean score, and the benchmark's own metrics."""

    score: float
    ci95: Interval
    metrics: dict[str, float]


class DomainQuality(ReportModel):
    """Held-out users' scores: the draft in the very answers of the second exam, and both champions."""

    metric: str
    zero_shot: float
    champion_before: float
    champion_after: float
    heldout_users: int
    questions: int
    ci95_after_minus_zero_shot: Interval
    ci95_after_minus_before: Interval
    verdict: Significance  # of after minus zero-shot
    verdict_after_minus_before: Significance
    arms: dict[str, ArmScores]


class QualityFigures(ReportModel):
    domains: dict[str, DomainQuality]
    overall: DomainQuality | None  # the mean of a user's domains; None where no held-out user answered


class VersionSummary(ReportModel):
    """A registered version, as the registry and the training run tell it."""

    name: str
    version: str
    alias: str | None
    digest: str
    parent: str | None
    offset_ranges: dict[str, dict[str, tuple[int, int]]]  # topic, partition: [first, end)
    dataset_digest: str | None
    seconds: dict[str, float]  # of each stage of its training
    decision: str | None  # the promoter's words


class PromotionStep(ReportModel):
    """One step of a version's promotion, as its log in the registry holds it."""

    version: str
    before: str
    after: str
    at_s: float  # below 0: before the run's clock began
    reason: str


class SwapFigures(ReportModel):
    """One change of the model that a reflection worker serves.

    `dropped` and `mixed_version` are counted from the topics, not taken from the worker. An answer is mixed when some of its tokens
    are not what the stamped version alone writes, while the other version explains them (`bench.demo.mixed_versions`).
    """

    from_version: str | None
    to_version: str
    at: datetime
    in_flight: int  # answers the worker was writing when it was told to swap
    open_queries: int  # asked before the swap and answered after it, counted from the topics
    dropped: int
    mixed_version: int
    checked: int  # answers around the swap whose tokens were checked
    unexplained: int  # checked answers that neither version explains
    event_to_first_answer_s: float | None
    waited_ms: float
    load_ms: float


class Percentiles(ReportModel):
    p50: float
    p99: float


class Latency(ReportModel):
    """`overhead` is `total` less the two models' time; `retrieve` is part of it, as are the broker and all waiting."""

    base: Percentiles
    retrieve: Percentiles
    reflect: Percentiles
    overhead: Percentiles
    total: Percentiles
    answers: int


class RewardPoint(ReportModel):
    """One step of RL: the mean reward of its rollouts at the stage's own k."""

    step: int
    stage: int
    k: int
    reward: float
    kl: float
    entropy: float
    signal_share: float  # groups whose rewards differ: the others teach nothing


class PhaseFigures(ReportModel):
    name: str
    started_s: float
    seconds: float
    cpu_s: float  # processor seconds of all processes together: what the phase costs on a machine of its own
    queries: int  # asked in it
    answers_per_s: float  # of those queries, from the first question to the last answer


class SecondOfAnswers(ReportModel):
    """Answers that went out in one second, by the version stamped on them; `none` is the base answer."""

    second: int
    answers: dict[str, int]


class TimelineEvent(ReportModel):
    """A point on the timeline."""

    name: str
    at_s: float


class ExamSample(ReportModel):
    """One exam question of a simulated user, before and after. Synthetic: no person wrote these words."""

    domain: str
    user: str
    query: str
    draft: str
    history: tuple[str, ...]
    before: str
    after: str
    truth: str


class Machine(ReportModel):
    cores: int
    memory_mb: int
    system: str


class DemoReport(ReportModel):
    """The whole of `report.json`."""

    kind: str = KIND
    ok: bool  # nothing lost, duplicated, dropped or mixed; the command's exit code follows it
    started_at: datetime
    short: bool
    seed: int
    machine: Machine
    counts: RecordCounts
    quality: QualityFigures
    models: tuple[VersionSummary, ...]
    promotion: tuple[PromotionStep, ...]  # of all versions, in the order of time
    swap: tuple[SwapFigures, ...]
    latency_ms: Latency | None  # of the questions asked in `latency_phase`
    latency_phase: str
    latency_ms_by_phase: dict[str, Latency]
    seconds: dict[str, float]  # per phase, and `total`
    phases: tuple[PhaseFigures, ...]
    served: tuple[SecondOfAnswers, ...]
    moments: tuple[TimelineEvent, ...]
    statuses: dict[str, int]
    statuses_by_version: dict[str, dict[str, int]]
    rewards: tuple[RewardPoint, ...]
    sft_steps: int
    sft_losses: tuple[float, ...]  # means over equal shares of the steps
    samples: tuple[ExamSample, ...]
    peak_memory_mb: int | None  # of all processes together, shared pages counted once
    versions: dict[str, str]
    settings: dict[str, str | int | float | bool | None]
    findings: tuple[str, ...] = Field(description="What the figures say, in words, good news or not.")
