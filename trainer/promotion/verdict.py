"""Verdict about the challenger from the figures of an experiment. No I/O; it holds at every look, however many there are (`sequential`).

Each version spends `promotion.alpha` once: a part on the shadow stage, the rest on the canary. In each stage `guardrail_alpha_share` goes to the guardrails
in equal parts, and the remainder to the reward. So the probability of any wrong verdict about two equal versions, over all looks, is at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from infra.settings.promotion import PromotionSettings
from schemas.experiments import Arm
from schemas.promotion_view import Guardrail, VerdictOutcome
from schemas.quality import Metric, Moments, Quality
from trainer.promotion.comparison import ArmSums, RewardDifference, reward_difference
from trainer.promotion.sequential import Estimate, difference, is_uneven_split, mean_of

#: Share of alpha for the shadow stage, which has few answers and only looks for harm.
SHADOW_ALPHA_SHARE = 0.2
#: True differences that the test finds with the fewest answers: of rewards, of rises beyond a limit, of ratios beyond a limit (relative to the baseline).
REWARD_TAU, RISE_TAU, RATIO_TAU = 0.04, 0.05, 0.25
#: Maximum number of domains in the evidence, the challenger's worst first, so that a transition fits into one tag. The gate has the same maximum.
MAX_DOMAINS = 50
#: Error probability of calling an even split uneven. Such an experiment ends as inconclusive, so this is no part of alpha. The check starts after
#: SPLIT_AFTER_S, because the figures of one group may arrive a moment later.
SPLIT_ALPHA, SPLIT_AFTER_S = 0.001, 60.0

RATIOS = frozenset({Metric.LATENCY_MS, Metric.LENGTH})


@dataclass(frozen=True)
class ExperimentVerdict:
    outcome: VerdictOutcome
    reason: str  # for people
    evidence: Mapping[str, Any]  # all figures it rests on, as JSON values


def canary_verdict(cells: Sequence[Quality], promotion: PromotionSettings, since_s: float) -> ExperimentVerdict:
    """Verdict `since_s` after the canary started. Never PASSED.

    BETTER or HARMFUL if the whole interval of the reward's difference lies beyond 0. HARMFUL also if a guardrail trips, which needs no feedback. Not
    BETTER while a guardrail is watched. INCONCLUSIVE at `canary_answers` scored answers of each group, after `canary_max_s`, or if the groups' users are
    no even split. Harm comes first: its interval has spent alpha at every look, and only harm ends a version that waits for approval.
    """
    canary, baseline = ArmSums.of(cells, Arm.CANARY), ArmSums.of(cells, Arm.BASELINE)
    rails = _canary_rails(canary, baseline, promotion)
    reward, alpha = reward_difference(canary, baseline), (1 - SHADOW_ALPHA_SHARE) * promotion.alpha * (1 - promotion.guardrail_alpha_share)
    low, high = reward.estimate.interval(alpha, REWARD_TAU)
    challenger, champion = canary.whole[Metric.REWARD], baseline.whole[Metric.REWARD]
    split = _users(canary), _users(baseline)
    evidence = {
        "reward": _reward(reward, (low, high), alpha),
        "arms": {Arm.CANARY.value: _arm(canary), Arm.BASELINE.value: _arm(baseline)},
        "guardrails": [rail.model_dump(mode="json") for rail in rails],
        "uneven": (uneven := since_s >= SPLIT_AFTER_S and is_uneven_split(*split, SPLIT_ALPHA)),
        "since_s": round(since_s, 1),
    }
    waiting = too_few((challenger, champion), promotion)
    is_enough = not waiting
    watched = ", ".join(rail.metric.value for rail in rails if rail.state == "watching")
    doubt = f"; beyond the limit, perhaps by chance: {watched}" if watched else ""
    summary = f"reward {_signed(reward.estimate.value, low, high)} against the baseline, {_counted(challenger, champion)}{doubt}"
    verdict = partial(ExperimentVerdict, evidence=evidence)
    if tripped := _tripped(rails):
        return verdict(VerdictOutcome.HARMFUL, tripped)
    if is_enough and high < 0:
        return verdict(VerdictOutcome.HARMFUL, f"worse: {summary}")
    if uneven:
        return verdict(
            VerdictOutcome.INCONCLUSIVE, f"{split[0]:,} users in the canary and {split[1]:,} in the baseline are no even split: nothing can be compared"
        )
    if is_enough and low > 0 and not watched:
        return verdict(VerdictOutcome.BETTER, f"better: {summary}")
    if min(challenger.n, champion.n) >= promotion.canary_answers:
        return verdict(VerdictOutcome.INCONCLUSIVE, f"undecided within promotion.canary_answers={promotion.canary_answers:,}: {summary}")
    if since_s >= promotion.canary_max_s:
        return verdict(VerdictOutcome.INCONCLUSIVE, f"undecided within promotion.canary_max_s={promotion.canary_max_s:g}: {summary}")
    return verdict(VerdictOutcome.RUNNING, waiting or summary)


def shadow_verdict(cells: Sequence[Quality], promotion: PromotionSettings, since_s: float) -> ExperimentVerdict:
    """Verdict `since_s` after the shadow stage started. Never BETTER: this stage only looks for harm.

    The gain is over the answer shown to the same question. The guardrails compare with all answers of the champion in that time, which include the same
    users' answers. They leave out latency, because shadow answers wait until the worker is less busy.
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
    summary = f"gain {_signed(estimate.value, low, high)} over the answers shown, {_counted(scored)}"
    verdict = partial(ExperimentVerdict, evidence=evidence)
    if tripped := _tripped(rails):
        return verdict(VerdictOutcome.HARMFUL, tripped)
    if not too_few((scored,), promotion) and high < 0:
        return verdict(VerdictOutcome.HARMFUL, f"worse: {summary}")
    if scored.n >= promotion.shadow_answers and scored.users >= promotion.min_users:
        return verdict(VerdictOutcome.PASSED, f"no harm found: {summary}")
    if since_s >= promotion.shadow_max_s:
        return verdict(VerdictOutcome.INCONCLUSIVE, f"too few scored answers within promotion.shadow_max_s={promotion.shadow_max_s:g}: {summary}")
    return verdict(VerdictOutcome.RUNNING, f"{scored.n:,} of {promotion.shadow_answers:,} scored answers, {scored.users:,} of {promotion.min_users:,} users")


def guardrails(cells: Sequence[Quality], promotion: PromotionSettings) -> list[Guardrail]:
    """The guardrails of the canary if the cells have one, else of the shadow stage."""
    if any(cell.arm is Arm.CANARY for cell in cells):
        return _canary_rails(ArmSums.of(cells, Arm.CANARY), ArmSums.of(cells, Arm.BASELINE), promotion)
    return _shadow_rails(ArmSums.of(cells, Arm.SHADOW), ArmSums.of(cells, Arm.CHAMPION), promotion)


def _canary_rails(canary: ArmSums, baseline: ArmSums, promotion: PromotionSettings) -> list[Guardrail]:
    return _rails(canary, baseline, promotion, (1 - SHADOW_ALPHA_SHARE) * promotion.alpha, frozenset(Metric))


def _shadow_rails(shadow: ArmSums, shown: ArmSums, promotion: PromotionSettings) -> list[Guardrail]:
    return _rails(shadow, shown, promotion, SHADOW_ALPHA_SHARE * promotion.alpha, frozenset(Metric) - {Metric.LATENCY_MS})


def _rails(challenger: ArmSums, champion: ArmSums, promotion: PromotionSettings, budget: float, among: frozenset[Metric]) -> list[Guardrail]:
    """The guardrails of the metrics in `among` that have a limit."""
    limits = {
        Metric.FALLBACK: promotion.max_fallback_rise,
        Metric.UNPARSABLE: promotion.max_unparsable_rise,
        Metric.LATENCY_MS: _latency_ratio(champion.whole[Metric.LATENCY_MS].mean, promotion),
        Metric.LENGTH: promotion.max_length_ratio,
        Metric.DRIFT: promotion.max_drift_rise,
    }
    watched = [metric for metric in limits if metric in among]
    alpha = budget * promotion.guardrail_alpha_share / len(watched)
    return [_rail(metric, limits[metric], challenger.whole[metric], champion.whole[metric], promotion.min_users, alpha) for metric in watched]


def _latency_ratio(baseline_ms: float, promotion: PromotionSettings) -> float:
    """The limit as a ratio, or as a rise in milliseconds if that allows more: twice a very short time is still short."""
    return max(promotion.max_latency_ratio, 1 + promotion.free_latency_rise_ms / baseline_ms) if baseline_ms > 0 else promotion.max_latency_ratio


def _rail(metric: Metric, limit: float, challenger: Moments, champion: Moments, min_users: int, alpha: float) -> Guardrail:
    """A guardrail can trip from `min_users` users of each group on. It must act early, and its interval accounts for few answers."""
    is_ratio = metric in RATIOS
    challenger_mean, champion_mean = challenger.mean if challenger.n else None, champion.mean if champion.n else None
    if not challenger.n or not champion.n or (is_ratio and champion.mean <= 0):
        return Guardrail(metric=metric, canary=challenger_mean, baseline=champion_mean, limit=limit)
    if is_ratio:  # (challenger - limit * champion) / champion, plus the limit: the ratio, with an interval that passes the limit when the difference passes 0
        estimate, tau = difference(challenger, champion, limit).scaled(1 / champion.mean), RATIO_TAU
    else:
        change = difference(challenger, champion)
        estimate, tau = Estimate(change.value - limit, change.variance, change.users), RISE_TAU
    low, high = estimate.bounds(alpha, tau)
    tripped = low > 0 and min(challenger.users, champion.users) >= min_users
    state: Literal["ok", "watching", "tripped"] = "tripped" if tripped else "watching" if estimate.value > 0 else "ok"
    return Guardrail(
        metric=metric,
        canary=challenger_mean,
        baseline=champion_mean,
        difference=estimate.value + limit,
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


def too_few(groups: Sequence[Moments], promotion: PromotionSettings) -> str:
    """What a decision still waits for; empty if there are enough scored answers and users of each group."""
    answers, users = min(group.n for group in groups), min(group.users for group in groups)
    if answers >= promotion.min_answers and users >= promotion.min_users:
        return ""
    return f"too few to decide: {answers:,} of {promotion.min_answers:,} scored answers, {users:,} of {promotion.min_users:,} users in the smaller group"


def _users(group: ArmSums) -> int:
    """Users with an answer, scored or not."""
    return max((moments.users for moments in group.whole.metrics.values()), default=0)


def _reward(reward: RewardDifference, interval: tuple[float, float], alpha: float) -> dict[str, Any]:
    low, high = interval
    domains = sorted(reward.domains.items(), key=lambda item: (item[1], item[0]))
    return {
        "difference": reward.estimate.value,
        "low": _finite(low),
        "high": _finite(high),
        "alpha": alpha,
        "effective_users": round(reward.estimate.users, 1),
        "raw": reward.raw,
        "theta": reward.theta,
        "variance_kept": reward.variance_kept,
        "domains": dict(domains[:MAX_DOMAINS]),
        "domains_left_out": max(0, len(domains) - MAX_DOMAINS),
    }


def _arm(group: ArmSums) -> dict[str, Any]:
    """The mean of each metric in one arm, with its number of answers and users."""
    metrics = {
        metric.value: {"mean": moments.mean, "answers": moments.n, "users": moments.users} for metric, moments in group.whole.metrics.items() if moments.n
    }
    return {"users": _users(group), "metrics": metrics}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _signed(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _counted(*groups: Moments) -> str:
    return f"{' and '.join(f'{group.n:,}' for group in groups)} scored answers of {' and '.join(f'{group.users:,}' for group in groups)} users"
