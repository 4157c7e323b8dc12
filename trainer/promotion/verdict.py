"""What the figures of an experiment say about the challenger. Pure; may be asked as often as one likes (`sequential`).

`promotion.alpha` is spent once per version: a part on the shadow stage, the rest on the canary, and in each `guardrail_alpha_share` on the guardrails in
equal parts and the remainder on the reward. So two equal versions are told apart wrongly, in whichever way and at whichever look, with at most that
probability.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from infra.settings import PromotionSettings
from schemas.experiments import Arm
from schemas.promotion_view import Guardrail, VerdictOutcome
from schemas.quality import Metric, Moments, Quality
from trainer.promotion.comparison import ArmSums, RewardDifference, gain
from trainer.promotion.sequential import Estimate, difference, mean_of, strays

#: The part of alpha that the shadow stage may spend: it sees few answers and only looks for harm.
SHADOW_ALPHA_SHARE = 0.2
#: True differences that are found soonest: of rewards, of rises beyond a limit, of ratios beyond a limit (relative to the baseline).
REWARD_TAU, RISE_TAU, RATIO_TAU = 0.04, 0.05, 0.25
#: Domains in the evidence of a verdict, those first where the challenger does worst: a transition is one tag. As many as the gate tells.
TOLD = 50
#: Of calling groups uneven that are not. Such an end is inconclusive, so it is no part of alpha. Not at once: figures of one group may be told a moment later.
SPLIT_ALPHA, SPLIT_AFTER_S = 0.001, 60.0

RATIOS = frozenset({Metric.LATENCY_MS, Metric.LENGTH})


@dataclass(frozen=True)
class ExperimentVerdict:
    outcome: VerdictOutcome
    reason: str  # for people
    evidence: Mapping[str, Any]  # every figure it rests on, as plain JSON values


def canary_verdict(cells: Sequence[Quality], promotion: PromotionSettings, since_s: float) -> ExperimentVerdict:
    """On the experiment's cells so far, `since_s` after the canary began. Never PASSED.

    BETTER or HARMFUL when the whole interval of the reward's difference lies beyond 0; HARMFUL, too, when a guardrail trips, which needs no feedback.
    While one is watched nothing is BETTER. INCONCLUSIVE at `canary_answers` scored answers of each group, after `canary_max_s`, or when the groups' users
    are no even split, unless there is harm: at every look its interval has alpha for it already, and a version that awaits a person is ended by harm alone.
    """
    canary, baseline = ArmSums.of(cells, Arm.CANARY), ArmSums.of(cells, Arm.BASELINE)
    rails = _canary_rails(canary, baseline, promotion)
    found, alpha = gain(canary, baseline), (1 - SHADOW_ALPHA_SHARE) * promotion.alpha * (1 - promotion.guardrail_alpha_share)
    low, high = found.estimate.interval(alpha, REWARD_TAU)
    one, other = canary.whole[Metric.REWARD], baseline.whole[Metric.REWARD]
    split = _users(canary), _users(baseline)
    evidence = {
        "reward": _reward(found, (low, high), alpha),
        "arms": {Arm.CANARY.value: _arm(canary), Arm.BASELINE.value: _arm(baseline)},
        "guardrails": [rail.model_dump(mode="json") for rail in rails],
        "uneven": (uneven := since_s >= SPLIT_AFTER_S and strays(*split, SPLIT_ALPHA)),
        "since_s": round(since_s, 1),
    }
    enough = _enough((one, other), promotion)
    watched = ", ".join(rail.metric.value for rail in rails if rail.state == "watching")
    doubt = f"; beyond the limit, perhaps by chance: {watched}" if watched else ""
    words = f"reward {_signed(found.estimate.value, low, high)} against the baseline, {_counted(one, other)}{doubt}"
    if tripped := _tripped(rails):
        return ExperimentVerdict(VerdictOutcome.HARMFUL, tripped, evidence)
    if enough and high < 0:
        return ExperimentVerdict(VerdictOutcome.HARMFUL, f"worse: {words}", evidence)
    if uneven:
        return ExperimentVerdict(
            VerdictOutcome.INCONCLUSIVE,
            f"{split[0]:,} users in the canary and {split[1]:,} in the baseline are no even split: nothing can be compared",
            evidence,
        )
    if enough and low > 0 and not watched:
        return ExperimentVerdict(VerdictOutcome.BETTER, f"better: {words}", evidence)
    if min(one.n, other.n) >= promotion.canary_answers:
        return ExperimentVerdict(VerdictOutcome.INCONCLUSIVE, f"undecided within promotion.canary_answers={promotion.canary_answers:,}: {words}", evidence)
    if since_s >= promotion.canary_max_s:
        return ExperimentVerdict(VerdictOutcome.INCONCLUSIVE, f"undecided within promotion.canary_max_s={promotion.canary_max_s:g}: {words}", evidence)
    return ExperimentVerdict(VerdictOutcome.RUNNING, words if enough else _waiting((one, other), promotion), evidence)


def shadow_verdict(cells: Sequence[Quality], promotion: PromotionSettings, since_s: float) -> ExperimentVerdict:
    """On the experiment's cells so far, `since_s` after the shadow stage began. Never BETTER: it looks for harm alone.

    The gain is over the answer shown to the same question; guardrails are against all answers that the champion gave meanwhile, the same users' among them, and
    leave latency out, since unseen answers wait for a quiet moment.
    """
    shadow, shown = ArmSums.of(cells, Arm.SHADOW), ArmSums.of(cells, Arm.CHAMPION)
    rails = _shadow_rails(shadow, shown, promotion)
    scored, alpha = shadow.whole[Metric.GAIN], SHADOW_ALPHA_SHARE * promotion.alpha * (1 - promotion.guardrail_alpha_share)
    estimate = mean_of(scored)
    low, high = estimate.bounds(alpha, REWARD_TAU)
    evidence = {
        "gain": {"difference": estimate.value, "low": _finite(low), "high": _finite(high), "alpha": alpha},
        "arms": {Arm.SHADOW.value: _arm(shadow), Arm.CHAMPION.value: _arm(shown)},
        "guardrails": [rail.model_dump(mode="json") for rail in rails],
        "since_s": round(since_s, 1),
    }
    words = f"gain {_signed(estimate.value, low, high)} over the answers shown, {_counted(scored)}"
    if tripped := _tripped(rails):
        return ExperimentVerdict(VerdictOutcome.HARMFUL, tripped, evidence)
    if _enough((scored,), promotion) and high < 0:
        return ExperimentVerdict(VerdictOutcome.HARMFUL, f"worse: {words}", evidence)
    if scored.n >= promotion.shadow_answers and scored.users >= promotion.min_users:
        return ExperimentVerdict(VerdictOutcome.PASSED, f"no harm found: {words}", evidence)
    if since_s >= promotion.shadow_max_s:
        return ExperimentVerdict(
            VerdictOutcome.INCONCLUSIVE, f"too little was seen within promotion.shadow_max_s={promotion.shadow_max_s:g}: {words}", evidence
        )
    return ExperimentVerdict(
        VerdictOutcome.RUNNING, f"{scored.n:,} of {promotion.shadow_answers:,} scored answers, {scored.users:,} of {promotion.min_users:,} users", evidence
    )


def guardrails(cells: Sequence[Quality], promotion: PromotionSettings) -> list[Guardrail]:
    """As the verdict of the stage that the cells are of sees them: the canary's once there is one."""
    if any(cell.arm is Arm.CANARY for cell in cells):
        return _canary_rails(ArmSums.of(cells, Arm.CANARY), ArmSums.of(cells, Arm.BASELINE), promotion)
    return _shadow_rails(ArmSums.of(cells, Arm.SHADOW), ArmSums.of(cells, Arm.CHAMPION), promotion)


def _canary_rails(canary: ArmSums, baseline: ArmSums, promotion: PromotionSettings) -> list[Guardrail]:
    return _rails(canary, baseline, promotion, (1 - SHADOW_ALPHA_SHARE) * promotion.alpha, frozenset(Metric))


def _shadow_rails(shadow: ArmSums, shown: ArmSums, promotion: PromotionSettings) -> list[Guardrail]:
    return _rails(shadow, shown, promotion, SHADOW_ALPHA_SHARE * promotion.alpha, frozenset(Metric) - {Metric.LATENCY_MS})


def _rails(one: ArmSums, other: ArmSums, promotion: PromotionSettings, budget: float, among: frozenset[Metric]) -> list[Guardrail]:
    """Those of `among` that have a limit."""
    limits = {
        Metric.FALLBACK: promotion.max_fallback_rise,
        Metric.UNPARSABLE: promotion.max_unparsable_rise,
        Metric.LATENCY_MS: _latency_ratio(other.whole[Metric.LATENCY_MS].mean, promotion),
        Metric.LENGTH: promotion.max_length_ratio,
        Metric.DRIFT: promotion.max_drift_rise,
    }
    watched = [metric for metric in limits if metric in among]
    alpha = budget * promotion.guardrail_alpha_share / len(watched)
    return [_rail(metric, limits[metric], one.whole[metric], other.whole[metric], promotion.min_users, alpha) for metric in watched]


def _latency_ratio(baseline_ms: float, promotion: PromotionSettings) -> float:
    """What is twice as slow as next to nothing is still quick: the limit is a ratio or a rise, whichever allows more."""
    return max(promotion.max_latency_ratio, 1 + promotion.free_latency_rise_ms / baseline_ms) if baseline_ms > 0 else promotion.max_latency_ratio


def _rail(metric: Metric, limit: float, one: Moments, other: Moments, min_users: int, alpha: float) -> Guardrail:
    """Answers of `min_users` users of each group are enough: a guardrail is there to be quick, and its error says how little they are."""
    is_ratio = metric in RATIOS
    challenger_mean, champion_mean = one.mean if one.n else None, other.mean if other.n else None
    if not one.n or not other.n or (is_ratio and other.mean <= 0):
        return Guardrail(metric=metric, canary=challenger_mean, baseline=champion_mean, limit=limit)
    if is_ratio:  # (one - limit * other) / other, plus the limit: the ratio, with an interval that passes the limit when the difference passes 0
        found, tau = difference(one, other, limit).scaled(1 / other.mean), RATIO_TAU
    else:
        apart = difference(one, other)
        found, tau = Estimate(apart.value - limit, apart.variance, apart.users), RISE_TAU
    low, high = found.bounds(alpha, tau)
    tripped = low > 0 and min(one.users, other.users) >= min_users
    state: Literal["ok", "watching", "tripped"] = "tripped" if tripped else "watching" if found.value > 0 else "ok"
    return Guardrail(
        metric=metric,
        canary=challenger_mean,
        baseline=champion_mean,
        difference=found.value + limit,
        low=_finite(low + limit),
        high=_finite(high + limit),
        limit=limit,
        state=state,
    )


def _tripped(rails: Sequence[Guardrail]) -> str:
    return "; ".join(
        f"guardrail {rail.metric.value}: {rail.canary:.4g} against {rail.baseline:.4g}, beyond the limit of {rail.limit:.4g} (at least {rail.low:.3g})"
        for rail in rails
        if rail.state == "tripped"
    )


def _enough(groups: Sequence[Moments], promotion: PromotionSettings) -> bool:
    return all(group.n >= promotion.min_answers and group.users >= promotion.min_users for group in groups)


def _waiting(groups: Sequence[Moments], promotion: PromotionSettings) -> str:
    answers, users = min(group.n for group in groups), min(group.users for group in groups)
    return f"too few to say anything: {answers:,} of {promotion.min_answers:,} scored answers, {users:,} of {promotion.min_users:,} users in the smaller group"


def _users(group: ArmSums) -> int:
    """Everybody with an answer, scored or not."""
    return max((moments.users for moments in group.whole.metrics.values()), default=0)


def _reward(found: RewardDifference, interval: tuple[float, float], alpha: float) -> dict[str, Any]:
    low, high = interval
    domains = sorted(found.domains.items(), key=lambda item: (item[1], item[0]))
    return {
        "difference": found.estimate.value,
        "low": _finite(low),
        "high": _finite(high),
        "alpha": alpha,
        "effective_users": round(found.estimate.users, 1),
        "raw": found.raw,
        "theta": found.theta,
        "variance_kept": found.variance_kept,
        "domains": dict(domains[:TOLD]),
        "domains_left_out": max(0, len(domains) - TOLD),
    }


def _arm(group: ArmSums) -> dict[str, Any]:
    """Figures of one arm by metric, each with its number of answers and users."""
    metrics = {metric.value: {"mean": one.mean, "answers": one.n, "users": one.users} for metric, one in group.whole.metrics.items() if one.n}
    return {"users": _users(group), "metrics": metrics}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _signed(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _counted(*groups: Moments) -> str:
    return f"{' and '.join(f'{group.n:,}' for group in groups)} scored answers of {' and '.join(f'{group.users:,}' for group in groups)} users"
