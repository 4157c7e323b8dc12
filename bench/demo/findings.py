"""What the figures say, in words. Bad news is said as plainly as good news, and what a figure cannot show is said too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bench.demo.report import DomainQuality, QualityFigures, RecordCounts, RewardPoint, Significance, SwapFigures, VersionSummary
from schemas.responses import ResponseStatus


def headline(quality: QualityFigures) -> str:
    """One sentence for the top of the page."""
    if not quality.domains:
        return "No held-out user was asked, so this run says nothing about quality."
    better = [row for row in quality.domains.values() if row.verdict is Significance.BETTER]
    worse = [row for row in quality.domains.values() if row.verdict is Significance.WORSE]
    many = f"{len(quality.domains)} domains"
    if worse:
        return f"After training, held-out users' answers are significantly worse than the base answers in {len(worse)} of {many}."
    if not better:
        return f"After training, held-out users' answers show no significant gain over the base answers in any of {many}."
    return f"After training on what other users did, held-out users' answers are significantly better than the base answers in {len(better)} of {many}."


def findings(
    counts: RecordCounts,
    quality: QualityFigures,
    models: Sequence[VersionSummary],
    swaps: Sequence[SwapFigures],
    rewards: Sequence[RewardPoint],
    statuses: Mapping[str, int],
) -> tuple[str, ...]:
    """All sentences, the most important first."""
    return (*_integrity(counts, swaps), *_quality(quality), *_models(models, swaps), *_learning(rewards), *_answers(statuses))


def _integrity(counts: RecordCounts, swaps: Sequence[SwapFigures]) -> Iterator[str]:
    if counts.lost or counts.duplicated:
        yield f"{counts.lost} of {counts.queries} queries have no answer and {counts.duplicated} have more than one."
    else:
        yield f"Every one of {counts.queries} queries has exactly one answer."
    dead = {topic: count for topic, count in counts.dead_letters.items() if count}
    if dead:
        yield "Records were set aside as dead letters: " + ", ".join(f"{count} of {topic}" for topic, count in dead.items()) + "."
    if counts.unreadable:
        yield f"{counts.unreadable} records on the topics are not messages of their topic."
    for swap in swaps:
        yield from _swap(swap)


def _swap(swap: SwapFigures) -> Iterator[str]:
    asked = f"Swap from version {swap.from_version} to {swap.to_version} with {swap.open_queries} questions open and {swap.in_flight} answers being written"
    yield f"{asked}: {swap.dropped} dropped, {swap.mixed_version} of {swap.checked} checked answers written by two versions."
    if swap.unexplained:
        yield f"{swap.unexplained} of the {swap.checked} checked answers are not what either version writes on replay; they are not counted as mixed."
    if swap.checked == 0:
        yield "No answer around the swap could be checked token by token, so `mixed_version` rests on nothing in this run."
    if swap.event_to_first_answer_s is None:
        yield f"No answer of version {swap.to_version} followed its event."


def _quality(quality: QualityFigures) -> Iterator[str]:
    for name, row in quality.domains.items():
        yield _compared(name.replace("_", " "), row)
    if quality.overall and len(quality.domains) > 1:
        yield _compared("over all domains", quality.overall)
    if quality.domains and all(row.champion_before == row.zero_shot for row in quality.domains.values()):
        yield "The champion before training scores exactly as the base answer does: as shipped, the reflection model repeats the draft until it is taught."


def _compared(name: str, row: DomainQuality) -> str:
    low, high = row.ci95_after_minus_zero_shot
    to_zero_shot = f"{row.verdict} than the base answer" if row.verdict is not Significance.SAME else "no significant difference from the base answer"
    low_before, high_before = row.ci95_after_minus_before
    gain = f"{row.zero_shot:.3f} to {row.champion_after:.3f}, {row.champion_after - row.zero_shot:+.3f} [{low:+.3f}, {high:+.3f}]"
    return (
        f"{name.capitalize()}: {to_zero_shot} ({gain}); "
        f"against the champion before training ({row.champion_before:.3f}): {row.verdict_after_minus_before} [{low_before:+.3f}, {high_before:+.3f}]; "
        f"{row.heldout_users} held-out users."
    )


def _models(models: Sequence[VersionSummary], swaps: Sequence[SwapFigures]) -> Iterator[str]:
    trained = [model for model in models if model.dataset_digest]
    if not trained:
        yield "No version was trained in this run."
    for model in trained:
        if model.decision:
            yield f"Version {model.version}: {model.decision}."
    if trained and not swaps:
        yield "The workers never changed their model: both exams were answered by the same version."


def _learning(rewards: Sequence[RewardPoint]) -> Iterator[str]:
    if not rewards:
        yield "There was no RL in this run."
    elif len({point.k for point in rewards}) > 1:
        yield "RL's reward is measured at each stage's own k, and more examples are another task: compare it within a stage, not across stages."


def _answers(statuses: Mapping[str, int]) -> Iterator[str]:
    total = sum(statuses.values())
    degraded = {name: count for name, count in statuses.items() if name not in (ResponseStatus.PERSONALIZED, ResponseStatus.ZERO_SHOT)}
    if degraded:
        listed = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(degraded.items(), key=lambda item: -item[1]))
        yield f"{sum(degraded.values())} of {total} answers were the base answer, not a personal one: {listed}."
