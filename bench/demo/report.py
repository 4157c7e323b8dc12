"""The fields of `report.json`. Every figure is measured in that run.

Scores are between 0 and 1, higher is better: share of right labels, one minus a rating's error over 4, ROUGE of the style.
Seconds count from the start of the run unless the name says otherwise.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from bench.machine import Machine

#: The wire name and version of the file.
KIND = "retouch.demo-report.v1"


class ReportModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Significance(StrEnum):
    """The meaning of a 95 % interval of a difference."""

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
    """Records on the topics, counted by a separate reader: every partition from offset 0, committed records only."""

    interactions: int
    queries: int
    responses: int
    feedback: int
    outcomes: int
    trajectories: int
    model_events: int
    dead_letters: dict[str, int]  # by topic, including topics with none
    unreadable: int  # records that are not valid messages of their topic
    lost: int  # queries, in the platform's list or on the topic, without a response
    duplicated: int  # queries with more than one response record


class ArmScores(ReportModel):
    """One arm of the comparison: the mean over held-out users of each user's mean score, and the benchmark's own metrics."""

    score: float
    ci95: Interval
    metrics: dict[str, float]


class DomainQuality(ReportModel):
    """Held-out users' scores of three answers: the draft of the second exam, and the champion before and after training."""

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
    overall: DomainQuality | None  # all domains together (`schemas.user_means`); None without held-out users


class VersionFigures(ReportModel):
    """A registered version, from the registry and the training run's report."""

    name: str
    version: str
    alias: str | None
    digest: str
    parent: str | None
    offset_ranges: dict[str, dict[str, tuple[int, int]]]  # topic, partition: [first, end)
    dataset_digest: str | None
    seconds: dict[str, float]  # of each stage of its training
    decision: str | None  # the promoter's last decision and its reason


class PromotionStep(ReportModel):
    """One transition of a version, from its history in the registry."""

    version: str
    before: str
    after: str
    at_s: float  # negative if before the start of the run's clock
    reason: str


class SwapFigures(ReportModel):
    """One change of the model that a reflection worker serves.

    `dropped` is the larger of the worker's figure and the count from the topics. `mixed_version` is checked on the answers' texts: an answer is
    mixed if the stamped version alone does not write it, and another version explains the rest (`bench.demo.mixed_versions`).
    """

    from_version: str | None
    to_version: str
    at: datetime
    in_flight: int  # requests that the worker was generating at the swap
    open_queries: int  # asked before the swap and answered after it, by the topics
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
    """`overhead` is `total` less the time of the two models: retrieval, broker and all waiting."""

    base: Percentiles
    retrieve: Percentiles
    reflect: Percentiles
    overhead: Percentiles
    total: Percentiles
    answers: int


class RewardPoint(ReportModel):
    """One step of RL: the mean reward of its rollouts at the stage's k."""

    step: int
    stage: int
    k: int
    reward: float
    kl: float
    entropy: float
    signal_share: float  # share of groups with different rewards; the others have no learning signal


class PhaseFigures(ReportModel):
    name: str
    started_s: float
    seconds: float
    cpu_s: float  # of all processes together
    queries: int  # asked in it
    answers_per_s: float  # of those queries, from the first question to the last answer


class SecondOfAnswers(ReportModel):
    """Answers of one second, by stamped version; `none` stands for base answers."""

    second: int
    answers: dict[str, int]


class TimelineEvent(ReportModel):
    """A point on the timeline."""

    name: str
    at_s: float


class ExamSample(ReportModel):
    """One exam question of a simulated user, before and after training. The texts are synthetic."""

    domain: str
    user: str
    query: str
    draft: str
    history: tuple[str, ...]
    before: str
    after: str
    truth: str


class DemoReport(ReportModel):
    """The whole of `report.json`."""

    kind: str = KIND
    ok: bool  # no answer lost, duplicated, dropped or mixed; decides the exit code
    started_at: datetime
    short: bool
    seed: int
    machine: Machine
    counts: RecordCounts
    quality: QualityFigures
    models: tuple[VersionFigures, ...]
    promotion: tuple[PromotionStep, ...]  # of all versions, by time
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
    findings: tuple[str, ...] = Field(description="The results in sentences, good or bad.")
