from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.settings.training import TrainerSettings
from schemas.eligibility import Ineligible
from schemas.ids import derive, is_held_out
from trainer.data.record_selection import RecordSummary, RowKind, SelectedRecords, max_per_user, select_records
from trainer.data.text_spool import TextSpan

NO_LIMITS = TrainerSettings(user_share=1.0, replay_share=1.0, judge_after=0.0)
TRAINING = [name for name in (f"u{n}" for n in range(60)) if not is_held_out("t", name, 0.3)]
HELD_OUT = [name for name in (f"u{n}" for n in range(60)) if is_held_out("t", name, 0.3)]


def summary(number: int, user: str = TRAINING[0], kind: RowKind = RowKind.TRAJECTORY, **fields: Any) -> RecordSummary:
    row_id = derive("row", kind, user, number).bytes
    record = RecordSummary(
        kind, row_id, f"t/{user}", "d", float(number), float(number), row_id, has_history=True, is_old=False, ineligible=None, span=TextSpan(0, 0)
    )
    return record._replace(**fields)


def shares(**fields: float) -> TrainerSettings:
    return NO_LIMITS.model_copy(update=fields)


def by_user(selected: SelectedRecords) -> Counter[str]:
    return Counter(kept.user for kept in selected.sft_examples)


def test_no_user_has_more_than_the_user_share_and_the_latest_stay() -> None:
    few_each = [summary(n, user) for user in TRAINING[:10] for n in range(3)]
    flood = [summary(n, TRAINING[10]) for n in range(1000)]
    selected = select_records([*few_each, *flood], {}, shares(user_share=0.2))
    assert by_user(selected)[f"t/{TRAINING[10]}"] == 7  # 7 / 37 is 0.19, 8 / 38 would be 0.21
    assert sorted(kept.asked_at for kept in selected.sft_examples if kept.user == f"t/{TRAINING[10]}") == [float(n) for n in range(993, 1000)]
    assert selected.counts["trajectories.over_user_share"] == 993


def test_too_few_users_for_the_share_keep_one_record_each() -> None:
    selected = select_records([summary(n, user) for user in TRAINING[:3] for n in range(50)], {}, shares(user_share=0.1))
    assert len(selected.sft_examples) == 3


@given(st.lists(st.integers(0, 30), max_size=12), st.floats(0, 1))
def test_the_largest_number_per_user_that_keeps_the_share_is_found(sizes: list[int], share: float) -> None:
    most = max_per_user(sizes, share)
    fits = [m for m in range(1, max([1, *sizes]) + 1) if m <= share * sum(min(size, m) for size in sizes)]
    assert most == max([1, *fits])


def test_old_records_have_at_most_the_replay_share() -> None:
    old, new = [summary(n, is_old=True) for n in range(300)], [summary(n) for n in range(300, 330)]
    for share, kept in ((0.0, 0), (0.25, 10), (0.5, 30), (1.0, 300)):
        selected = select_records([*old, *new], {}, shares(replay_share=share))
        assert selected.counts["replayed"] == kept and len(selected.sft_examples) == kept + 30
        assert selected.counts.get("trajectories.replay_left_out", 0) == 300 - kept


def test_another_salt_replays_other_records_and_the_same_salt_the_same() -> None:
    records = [summary(n, is_old=n < 100) for n in range(110)]
    first, repeated, other = (select_records(records, {}, shares(replay_share=0.5), salt=salt).sft_examples for salt in (b"1", b"1", b"2"))
    assert first == repeated != other and len(first) == len(other) == 20


def test_without_new_records_nothing_is_replayed() -> None:
    selected = select_records([summary(n, is_old=True) for n in range(100)], {}, shares(replay_share=0.5))
    assert not selected.sft_examples and selected.counts["trajectories.replay_left_out"] == 100


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60), st.floats(0.05, 0.95), st.floats(0.3, 1))
def test_both_shares_hold_at_once_if_there_are_enough_users(drawn: list[tuple[int, bool]], replay: float, user: float) -> None:
    records = [summary(n, TRAINING[which], is_old=old) for n, (which, old) in enumerate(drawn)]
    selected = select_records(records, {}, shares(replay_share=replay, user_share=user))
    counted = by_user(selected)
    assert sum(kept.is_old for kept in selected.sft_examples) <= replay * len(selected.sft_examples) + 1e-9
    assert max(counted.values(), default=0) <= max(1, user * len(selected.sft_examples))
    assert selected == select_records(reversed(records), {}, shares(replay_share=replay, user_share=user))


def test_an_old_example_is_kept_instead_of_its_new_repeat() -> None:
    old, new = summary(1, example_key=b"same", is_old=True), summary(2, example_key=b"same")
    selected = select_records([new, old, summary(3)], {}, NO_LIMITS)
    assert selected.counts["trajectories.repeated"] == 1 and old in selected.sft_examples and new not in selected.sft_examples


def test_equal_outcomes_are_all_kept() -> None:
    assert len(select_records([summary(n, kind=RowKind.OUTCOME, example_key=None) for n in range(5)], {}, NO_LIMITS).training) == 5


@pytest.mark.parametrize(("earliest", "kept"), [(9.0, 0), (10.0, 1)])
def test_only_data_from_before_the_erasure_request_is_left_out(earliest: float, kept: int) -> None:
    selected = select_records([summary(20, earliest=earliest)], {f"t/{TRAINING[0]}": 10.0, "t/other": 99.0}, NO_LIMITS)
    assert len(selected.sft_examples) == kept and selected.counts.get("trajectories.erased", 0) == 1 - kept


def test_unusable_records_are_counted_by_topic_and_reason() -> None:
    records = [
        summary(1, ineligible=Ineligible.NO_TRUTH),
        summary(2, kind=RowKind.OUTCOME, ineligible=Ineligible.NO_TRUTH),
        summary(3, kind=RowKind.OUTCOME, has_history=False),
        summary(4, HELD_OUT[0]),
    ]
    selected = select_records([*records, summary(5, HELD_OUT[0], RowKind.OUTCOME, has_history=False)], {}, NO_LIMITS)
    reasons = {name: count for name, count in selected.counts.items() if "." in name}
    assert reasons == {"trajectories.no_truth": 1, "outcomes.no_truth": 1, "outcomes.no_history": 1, "trajectories.held_out": 1}
    assert len(selected.heldout) == 1 and not selected.training  # serving falls back without history, so it is judged


def test_early_held_out_outcomes_judge_only_if_the_later_ones_are_too_few() -> None:
    examples = [summary(n, TRAINING[n % 20]) for n in range(100)]
    heldout = [summary(n, HELD_OUT[n % 10], RowKind.OUTCOME) for n in range(100)]
    selected = select_records([*examples, *heldout], {}, shares(judge_after=0.8, eval_queries=20))
    assert {kept.asked_at for kept in selected.heldout} == {float(n) for n in range(80, 100)} and selected.counts["outcomes.asked_early"] == 80
    few = select_records([*examples, *heldout], {}, shares(judge_after=0.8, eval_queries=21))
    assert len(few.heldout) == 100 and few.counts["heldout_later"] == 20 and "outcomes.asked_early" not in few.counts
    many = select_records([*examples, *(summary(n, HELD_OUT[n % 10], RowKind.OUTCOME) for n in range(200))], {}, shares(judge_after=0.5, eval_queries=600))
    assert len(many.heldout) == 150 and many.counts["outcomes.asked_early"] == 50  # they need not fill eval_queries
    alone = select_records([*examples, *heldout], {}, shares(judge_after=0.8, eval_queries=20, min_heldout_users=11))
    assert len(alone.heldout) == 100
