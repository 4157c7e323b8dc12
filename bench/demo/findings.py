"""The results of a run in sentences, good or bad, and the limits of each figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bench.demo.report import DomainQuality, QualityFigures, RecordCounts, RewardPoint, Significance, SwapFigures, VersionFigures
from schemas.responses import ResponseStatus


def headline(quality: QualityFigures) -> str:
    """One sentence for the top of the page."""
    if not quality.domains:
        return "No held-out user answered, so this run has no quality figures."
    better = [row for row in quality.domains.values() if row.verdict is Significance.BETTER]
    worse = [row for row in quality.domains.values() if row.verdict is Significance.WORSE]
    total = f"{len(quality.domains)} domains"
    if worse:
        return f"After training, held-out users' answers are significantly worse than the base answers in {len(worse)} of {total}."
    if not better:
        return f"After training, held-out users' answers show no significant gain over the base answers in any of {total}."
    return f"After training on other users' data, held-out users' answers are significantly better than the base answers in {len(better)} of {total}."


def findings(
    counts: RecordCounts,
    quality: QualityFigures,
    models: Sequence[VersionFigures],
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
        yield f"Each of {counts.queries} queries has exactly one answer."
    dead = {topic: count for topic, count in counts.dead_letters.items() if count}
    if dead:
        yield "Records were set aside as dead letters: " + ", ".join(f"{count} of {topic}" for topic, count in dead.items()) + "."
    if counts.unreadable:
        yield f"{counts.unreadable} records are not valid messages of their topic."
    for swap in swaps:
        yield from _swap(swap)


def _swap(swap: SwapFigures) -> Iterator[str]:
    load = f"Swap from version {swap.from_version} to {swap.to_version} with {swap.open_queries} open questions and {swap.in_flight} requests in generation"
    yield f"{load}: {swap.dropped} dropped, {swap.mixed_version} of {swap.checked} checked answers mix two versions."
    if swap.unexplained:
        yield f"{swap.unexplained} of {swap.checked} checked answers match neither version on replay; they do not count as mixed."
    if swap.checked == 0:
        yield "No answer around the swap could be checked token by token, so this run does not measure `mixed_version`."
    if swap.event_to_first_answer_s is None:
        yield f"Version {swap.to_version} gave no answer after its event."


def _quality(quality: QualityFigures) -> Iterator[str]:
    for name, row in quality.domains.items():
        yield _compared(name.replace("_", " "), row)
    if quality.overall and len(quality.domains) > 1:
        yield _compared("over all domains", quality.overall)
    if quality.domains and all(row.champion_before == row.zero_shot for row in quality.domains.values()):
        yield "The champion before training scores exactly like the base answer: the shipped reflection model repeats the draft until it is trained."


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


def _models(models: Sequence[VersionFigures], swaps: Sequence[SwapFigures]) -> Iterator[str]:
    trained = [model for model in models if model.dataset_digest]
    if not trained:
        yield "No version was trained in this run."
    for model in trained:
        if model.decision:
            yield f"Version {model.version}: {model.decision}."
    if trained and not swaps:
        yield "The workers did not swap: the same version answered both exams."


def _learning(rewards: Sequence[RewardPoint]) -> Iterator[str]:
    if not rewards:
        yield "This run had no RL."
    elif len({point.k for point in rewards}) > 1:
        yield "The reward of RL depends on the k of its stage: compare rewards within a stage, not across stages."


def _answers(statuses: Mapping[str, int]) -> Iterator[str]:
    total = sum(statuses.values())
    degraded = {name: count for name, count in statuses.items() if name not in (ResponseStatus.PERSONALIZED, ResponseStatus.ZERO_SHOT)}
    if degraded:
        listed = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(degraded.items(), key=lambda item: -item[1]))
        yield f"{sum(degraded.values())} of {total} answers were the base answer, not a rewrite: {listed}."
