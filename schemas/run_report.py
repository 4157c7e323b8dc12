"""The report of a training run, `stack.dir/runs/<run id>/report.json`, and its parts. It names no user and quotes no text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer

from schemas.gate import GateResult
from schemas.messages import AwareDatetime, Record
from schemas.scoring import Interval

Timestamp = Annotated[AwareDatetime, PlainSerializer(datetime.isoformat)]


class RunStatus(StrEnum):
    RUNNING = "running"  # without a trainer that holds the lease: killed
    TRAINED = "trained"
    NOTHING_TO_TRAIN = "nothing_to_train"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    ABANDONED = "abandoned"

    @property
    def is_unfinished(self) -> bool:
        """Whether the next trainer may resume the run."""
        return self in (RunStatus.RUNNING, RunStatus.INTERRUPTED)


class TriggerKind(StrEnum):
    BY_HAND = "by_hand"
    UNFINISHED = "unfinished"
    NEW_OUTCOMES = "new_outcomes"
    SCHEDULE = "schedule"
    DRIFT = "drift"


@dataclass(frozen=True)
class Trigger:
    """One reason to start a run: whether it applies, and the numbers behind it."""

    kind: TriggerKind
    fired: bool
    reason: str = ""
    numbers: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Scores of all arms in one domain, or their means over domains. Intervals are named `<after>_minus_<before>`."""

    metric: str
    users: int
    cases: int
    scores: Mapping[str, float]  # by arm, mean over users
    metrics: Mapping[str, Mapping[str, float]]  # by arm, the task's metrics as means over cases
    intervals: Mapping[str, Interval]


@dataclass(frozen=True)
class Evaluation:
    """Answers of all arms to held-out users' questions, scored and compared."""

    domains: Mapping[str, Comparison]  # by domain; by `domain/task` if a domain's queries ask for several kinds of answer
    overall: Comparison
    fallen_back: Mapping[str, float]  # by arm: share of the cases with history without a usable rewrite
    behaviour: Mapping[str, Mapping[str, float]]  # by arm: figures that no training targets (`trainer.judge.behaviour`)
    slices: Mapping[str, Comparison] = field(default_factory=dict)
    k: int | None = None  # history items in each prompt, but in those of domains with a k of their own


class StageProgress(Record):
    """The last finished step of the current stage, with that step's figures."""

    model_config = ConfigDict(allow_inf_nan=True)

    step: int
    of: int
    eta_s: float | None = None
    stage: int | None = None
    k: int | None = None
    reward: float | None = None
    kl: float | None = None
    entropy: float | None = None
    loss: float | None = None
    signal_share: float | None = None


@dataclass(frozen=True)
class RlStep:
    """The record of one optimizer step of RL. `reward` is the mean task score without the format bonus; it gets harder to earn as k grows."""

    step: int
    stage: int
    k: int  # the curriculum's number of items, in domains without a k of their own
    shown: float  # mean number of items in the prompts: fewer than k if the history has fewer or not all fit
    reward: float
    usable_share: float
    signal_share: float  # share of groups whose rewards differ; the others have no gradient
    kl: float  # k1 to the reference policy: sum over tokens, mean over completions
    entropy: float  # nats per token
    length: float  # tokens per completion
    loss: float
    seconds: float
    left_out: int = 0  # prompts drawn and skipped, because not even one item fits or the truth holds a control mark


class SftSummary(Record):
    steps: int
    left_out: int


class HydraSummary(Record):
    """The version of HYDRA that the run registered, with its gate result in words; without a version, why there is none."""

    reason: str
    name: str | None = None
    version: str | None = None
    digest: str | None = None


class RunDecision(Record):
    promote: bool
    reason: str


class RunReport(BaseModel):
    """State and results of a run so far. Unknown fields are kept. A field that is not set is not written."""

    model_config = ConfigDict(extra="allow")

    run_id: str
    status: RunStatus
    reason: str | None = None  # in words, at the end
    stage: str | None = None
    progress: StageProgress | None = None
    started_at: Timestamp | None = None  # of the run, over all processes that worked on it
    finished_at: Timestamp | None = None
    starts: int = 0  # processes that worked on it
    kills: int = 0  # how many of the last processes in a row were killed before they stored a step beyond `stored`
    stored: dict[str, int] = {}  # newest stored step of each stage when the last process started
    seconds: dict[str, float]  # by stage: collect, load, sft, rl, save, evaluate, register, hydra
    peak_rss_bytes: dict[str, int] = {}
    peak_gpu_bytes: dict[str, int] = {}
    seed: int | None = None
    settings: dict[str, Any]  # the settings that the result depends on; compared before a run is resumed
    start_from: str | None = None
    parent: str | None = None
    champion: str | None = None
    tracked: str | None = None  # id of its MLflow run
    triggers: list[Trigger] | None = None  # fired or not
    counts: dict[str, int] = {}
    judged_share: float | None = None
    offset_ranges: dict[str, dict[str, tuple[int, int]]] | None = None
    dataset_digest: str | None = None
    code_version: str | None = None
    pinned: bool = False  # the snapshot is stored; a resumed run reads it instead of the topics
    sft: SftSummary | None = None
    sft_losses: list[float] = []  # means over ten steps
    reward_curve: list[RlStep] = []
    evaluation: Evaluation | None = None
    gate: GateResult | None = None
    decision: RunDecision | None = None
    name: str | None = None  # of the registered version, as the next two
    version: str | None = None
    digest: str | None = None
    hydra: HydraSummary | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return self.model_dump(mode="json", exclude_unset=True)


class RunSummary(BaseModel):
    """State of the newest run, as `retouch train status` shows it."""

    run_id: str
    status: str  # a `RunStatus`, or `killed`
    reason: str | None
    triggers: list[TriggerKind]  # those that fired
    stage: str | None
    step: int | None = None
    of: int | None = None
    k: int | None = None
    reward: float | None = None
    loss: float | None = None
    eta_s: float | None = None
    seconds: dict[str, float]
    started_at: Timestamp | None
    finished_at: Timestamp | None
    version: str | None
    lessons: int | None
    report: str
