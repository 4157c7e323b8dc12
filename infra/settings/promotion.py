"""Settings of the registry, of online quality and of the promoter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from infra.settings.section import MAX_INT, Count, Kept, Positive, Seconds, Section, Share
from infra.settings.texts import HeaderSecret, Host, ModelName, TrackingUri, url_of

MIN_TOKEN = 16


def _long_enough(token: SecretStr) -> SecretStr:
    if len(token) < MIN_TOKEN:
        raise ValueError(f"must have at least {MIN_TOKEN} printable characters of ASCII")
    return token


class RegistrySettings(Section):
    """MLflow. Without `tracking_uri`: SQLite and local artifacts in the state directory.

    The user of a server is in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or in MLFLOW_TRACKING_TOKEN.
    """

    tracking_uri: TrackingUri | None = None  # http(s)://HOST of an MLflow server that also serves the artifacts, or sqlite:///FILE
    model_name: ModelName = "retouch-reflector"  # of the registered model


class QualitySettings(Section):
    """Online quality: figures of the answers, computed from the stream (schemas.quality)."""

    window_s: Seconds = 60.0  # length of one window of the figures over time
    every_s: Seconds = 1.0  # interval between two publications of changed cells
    waiting: Kept = 20_000  # shadow answers of one partition that wait for feedback; beyond this number the oldest are dropped
    #: A comparison of strategies counts the answers of this time from its first one, then ends. Its records must be on the topics until then
    comparison_max_s: Annotated[float, Field(gt=0, le=864_000)] = 604_800.0


class PromotionSettings(Section):
    """The promoter, which takes a registered version through its stages (docs/promotion.md)."""

    approval: Literal["automatic", "person"] = "automatic"  # who promotes a version that passed every stage
    poll_s: Seconds = 1.0  # interval between two reads of versions and figures
    gate_timeout_s: Seconds = 3600.0  # of one gate; then it runs again, three times in all
    slice_drop: Share = 0.0  # drop against the champion that the gate accepts in a domain or slice; only a drop beyond chance counts
    trigger_phrases: tuple[
        Annotated[str, Field(pattern=r"\S")], ...
    ] = ()  # phrases that no version may write if its inputs do not hold them; the gate tests these and others that it finds in answers
    shadow_share: Share = 0.1  # of queries that the challenger answers in shadow
    shadow_answers: Count = 200  # scored shadow answers that the stage needs; 0: no shadow stage
    shadow_max_s: Seconds = 86_400.0  # after this time the shadow stage is inconclusive
    canary_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1  # of users whom the challenger answers; the baseline is equally large
    canary_answers: Count = 20_000  # scored answers of each group after which the canary stage is inconclusive without a verdict; 0: no canary stage
    canary_max_s: Seconds = 604_800.0  # after this time the canary stage is inconclusive
    min_answers: Positive = 100  # scored answers of each group before any decision
    min_users: Annotated[int, Field(ge=2, le=MAX_INT)] = 30  # of each group before any decision; errors over fewer users are unreliable
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05  # probability of a wrong verdict for two equal versions, for any number of looks
    guardrail_alpha_share: Annotated[float, Field(gt=0, lt=1)] = 0.4  # of alpha, divided among the guardrails; the reward has the rest
    max_fallback_rise: Share = 0.05  # rise of the share of base answers, canary minus baseline; a guardrail trips on a larger rise beyond chance
    max_unparsable_rise: Share = 0.05  # rise of the share of unparsable rewrites, likewise
    max_latency_ratio: Annotated[float, Field(ge=1)] = 1.5  # of mean rewrite times, canary over baseline
    free_latency_rise_ms: Annotated[float, Field(ge=0)] = 250.0  # a smaller rise of the mean rewrite time never trips the guardrail, at any ratio
    max_length_ratio: Annotated[float, Field(ge=1)] = 1.5  # of mean lengths relative to the base answer
    max_drift_rise: Share = 0.5  # of the mean distance from the base answer. Against a version that repeats drafts, personal answers rise by a third
    rollback_on_refusal: bool = True  # rolls back a champion that a worker refuses to load
    host: Host = "127.0.0.1"  # address that the page and its API listen on
    port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: a free port, which `retouch status` shows
    #: Promoter that the command line calls; None: the one of the local stack
    url: Annotated[str, url_of("http://HOST:PORT or https://HOST of a promoter", "promotion.operator_token")] | None = None
    #: Lets its bearer promote, reject and roll back; None: the local stack creates one in its directory
    operator_token: Annotated[HeaderSecret, AfterValidator(_long_enough)] | None = None
