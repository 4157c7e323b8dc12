"""Builds the promotion view for the page, `retouch models` and the API.

Intervals are mean +- 1.96 standard errors over users, for people to read. Decisions rest on the wider intervals of `verdict`, which hold at every look.
Rows of `quality` come from the current experiment; without one they come from the windows of the last hour, each of which counts its users separately.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from infra.registry.client import RegisteredVersion
from infra.settings import Settings
from schemas.comparison_view import ComparisonView
from schemas.experiments import Arm
from schemas.promotion import VersionState
from schemas.promotion_view import (
    ArmView,
    ExperimentView,
    PageView,
    PromotionView,
    RewardView,
    VerdictOutcome,
    VerdictView,
    VersionTransition,
    VersionView,
    WindowView,
)
from schemas.quality import Metric, Moments, Quality
from schemas.view_parts import RewardInterval
from trainer.judge.gate import GATE
from trainer.promotion.promoter import PromoterState
from trainer.promotion.strategy_comparison import comparison_views, strategy_traffic
from trainer.promotion.verdict import guardrails
from trainer.promotion.version_history import VersionHistories

Z = 1.96
#: Number of transitions, over all versions, in `transitions`.
NEWEST = 20
#: The page shows this many of the newest versions; besides them the champion, the challenger and this many former champions.
SHOWN, FORMER = 60, 5

Key = TypeVar("Key")


def view_of(state: PromoterState, settings: Settings) -> PromotionView:
    """The view of the promoter's last pass; `at` is the time of that pass."""
    histories, observations = state.histories, state.observations
    champion, challenger = histories.champion, histories.challenger
    cells = observations.cells if histories.experiment and observations.experiment == histories.experiment else ()
    return PromotionView(
        name=settings.registry.model_name,
        at=state.at,
        champion=champion.version if champion else None,
        challenger=challenger.version if challenger else None,
        approval=settings.promotion.approval,
        experiment=_experiment(challenger, cells, state) if challenger else None,
        versions=tuple(version_view(histories, version) for version in histories.versions),
        quality=_rewards(cells or observations.windows),
        windows=_windows(observations.windows),
        guardrails=tuple(guardrails(cells, settings.promotion)) if cells else (),
        workers=tuple(observations.reports),
        transitions=_newest(histories),
        comparisons=comparison_views(observations.comparisons, settings),
        strategies=strategy_traffic((*observations.windows, *observations.strategy_windows)),
    )


def page_view(view: PromotionView) -> PageView:
    """The part of the view that the page polls. Its size does not grow with the number of versions; only the newest transitions carry evidence."""
    former = [version.version for version in view.versions if version.state is VersionState.RETIRED][-FORMER:]
    shown = {view.champion, view.challenger, *former, *(version.version for version in view.versions[-SHOWN:])}
    versions = tuple(version for version in view.versions if version.version in shown)
    comparisons = tuple(_over_all_domains(comparison) for comparison in view.comparisons[:1])
    return PageView.model_validate(dict(view) | {"versions": versions, "comparisons": comparisons}, from_attributes=True)


def _over_all_domains(comparison: ComparisonView) -> ComparisonView:
    figures, differences = ([row for row in rows if row.domain is None] for rows in (comparison.strategies, comparison.differences))
    return comparison.model_copy(update={"strategies": tuple(figures), "differences": tuple(differences)})


def version_view(histories: VersionHistories, version: RegisteredVersion) -> VersionView:
    """One version with its whole history."""
    dataset = version.dataset
    ranges = dataset.ranges if dataset else {}
    return VersionView(
        version=version.version,
        digest=version.digest,
        parent=version.parent,
        created_at=version.created_at,
        state=histories.state(version),
        aliases=version.aliases,
        metrics=dict(version.metrics),
        code_version=version.tags.get("code_version"),
        dataset_digest=dataset.digest if dataset else None,
        offset_ranges={topic: {str(partition): span for partition, span in spans.items()} for topic, spans in ranges.items()},
        tags={name: value for name, value in version.tags.items() if name != GATE},
        transitions=version.transitions,
    )


def _experiment(challenger: RegisteredVersion, cells: Sequence[Quality], state: PromoterState) -> ExperimentView:
    last, verdict = challenger.transitions[-1], state.verdict
    assert last.experiment is not None
    outcome, reason = (verdict.outcome, verdict.reason) if verdict else (VerdictOutcome.RUNNING, "no figures yet")
    return ExperimentView(
        id=last.experiment,
        version=challenger.version,
        stage=last.after,
        share=last.share,
        since=last.at,
        arms={arm: _arm([cell for cell in cells if cell.arm is arm and cell.domain is None]) for arm in Arm if any(cell.arm is arm for cell in cells)},
        verdict=VerdictView(outcome=outcome, reason=reason),
    )


def _arm(cells: Sequence[Quality]) -> ArmView:
    reward = _reward(cells)
    return ArmView(version=cells[-1].version if cells else None, answers=sum(cell.answers for cell in cells), scored=reward.n, users=reward.users)


def _rewards(cells: Iterable[Quality]) -> tuple[RewardView, ...]:
    """The reward by version, arm and domain."""
    groups = _grouped(cells, lambda cell: (int(cell.version), cell.arm.value, cell.domain or "", cell.arm))
    return tuple(
        RewardView(version=str(version), arm=arm, domain=domain or None, users=_reward(group).users, **dict(_interval(_reward(group))))
        for (version, _, domain, arm), group in sorted(groups.items())
    )


def _windows(cells: Iterable[Quality]) -> tuple[WindowView, ...]:
    """The reward by window, version and arm, oldest first."""
    whole = (cell for cell in cells if cell.domain is None)
    groups = _grouped(whole, lambda cell: (cell.started_at, cell.ended_at, cell.version, cell.arm.value))
    return tuple(
        WindowView(version=version, arm=Arm(arm), started_at=started_at, ended_at=ended_at, **dict(_interval(_reward(group))))
        for (started_at, ended_at, version, arm), group in sorted(groups.items())
    )


def _newest(histories: VersionHistories) -> tuple[VersionTransition, ...]:
    steps = [(step, version.version) for version in histories.versions for step in version.transitions]
    newest = sorted(steps, key=lambda pair: (pair[0].at, int(pair[1])), reverse=True)[:NEWEST]
    return tuple(VersionTransition.of(version, step) for step, version in newest)


def _grouped(cells: Iterable[Quality], key: Callable[[Quality], Key]) -> Mapping[Key, list[Quality]]:
    groups: dict[Key, list[Quality]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return groups


def _reward(cells: Iterable[Quality]) -> Moments:
    """The reward's sums over partitions."""
    return sum((cell.metrics[Metric.REWARD] for cell in cells if Metric.REWARD in cell.metrics), Moments())


def _interval(moments: Moments) -> RewardInterval:
    half = Z * math.sqrt(moments.variance)
    is_known = moments.n > 0 and math.isfinite(half)
    mean = moments.mean
    return RewardInterval(scored=moments.n, mean=mean if moments.n else None, low=mean - half if is_known else None, high=mean + half if is_known else None)
