import json
import random
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.errors import RetryLater
from infra.kafka.topic_reader import TopicReader
from infra.registry.client import RegisteredVersion
from infra.settings import load
from schemas.ids import bucket, is_held_out
from schemas.outcomes import Outcome
from schemas.topics import OUTCOMES, TRAJECTORIES
from schemas.trajectories import Trajectory
from tests.support.collected_records import ALL_OUTCOMES, HELD_OUT, MESSAGES, NO_LIMITS, RANGES, TRAINING, erasure_record, make_snapshot, record_of, row_texts
from tests.support.memory_consumer import MemoryConsumer
from tests.support.outcomes import NOON, make_outcome, make_trajectory
from trainer.data.collect import HOLDOUT_SHARE, assemble, offsets_beyond, read_ranges, untouched_share
from trainer.data.snapshot import Ranges, canonical, write_snapshot
from trainer.run.planning import plan_run


def test_order_and_repeats_change_nothing() -> None:
    shuffled = MESSAGES * 2
    random.Random(3).shuffle(shuffled)
    second, first = make_snapshot(shuffled), make_snapshot(MESSAGES)
    assert second.digest == first.digest and row_texts(second) == row_texts(first)
    assert list(second.training) == list(first.training) and list(second.sft_examples) == list(first.sft_examples)
    assert second.counts["outcomes.read"] == 2 * first.counts["outcomes.read"]


def test_the_first_record_of_an_id_is_used_and_conflicts_are_counted() -> None:
    """`remade` is no conflict: a step that ran twice made other model text."""
    outcome = ALL_OUTCOMES[0]
    remade = outcome.model_copy(update={"response": outcome.response.model_copy(update={"answer": "other model words"})})
    one, two = outcome.model_copy(update={"truth": "a"}), outcome.model_copy(update={"score": 0.75})
    for messages, conflicts in (([one, two, outcome, one, two], 3), ([two, one, two], 1), ([remade, outcome], 0), ([outcome, remade], 0)):
        snapshot = make_snapshot(messages)
        assert [text for *_, text in row_texts(snapshot)] == [canonical(messages[0])]
        assert (snapshot.counts["outcomes"], snapshot.counts.get("outcomes.conflicting_id", 0)) == (1, conflicts)


def test_the_order_of_reading_partitions_changes_nothing() -> None:
    """A topic that got more partitions may hold a key in two of them."""
    outcome = ALL_OUTCOMES[0]
    first, second = record_of(outcome, 7), record_of(outcome.model_copy(update={"truth": "a"}), 3)
    second.partition = 1
    digests = {assemble(RANGES, records, NO_LIMITS).digest for records in ([first, second], [second, first])}
    assert digests == {make_snapshot([outcome]).digest}


def test_two_users_outcomes_with_one_id_are_two_outcomes() -> None:
    mine = make_outcome(1, user=TRAINING)
    theirs = make_outcome(2, user=HELD_OUT).model_copy(update={"outcome_id": mine.outcome_id})
    snapshot = make_snapshot([mine, theirs])
    assert snapshot.counts["outcomes"] == 2 and "outcomes.conflicting_id" not in snapshot.counts
    assert make_snapshot([theirs, mine]).digest == snapshot.digest


def test_other_records_or_another_holdout_give_another_digest() -> None:
    snapshot = make_snapshot(MESSAGES)
    assert make_snapshot(MESSAGES[1:]).digest != snapshot.digest
    assert make_snapshot(MESSAGES, NO_LIMITS.model_copy(update={"holdout_share": 0.0})).digest != snapshot.digest


def test_held_out_users_judge_and_never_train() -> None:
    snapshot = make_snapshot(MESSAGES)
    assert {case.user for case in snapshot.training} == {example.case.user for example in snapshot.sft_examples} == {f"t/{TRAINING}"}
    assert {case.user for case in snapshot.heldout} == {f"t/{HELD_OUT}"}
    assert snapshot.counts["trajectories.held_out"] == 4 and snapshot.heldout_users == 1
    assert [row.kind for row in snapshot.rows if row.held_out] == ["outcome"] * 4


def test_users_that_trained_an_ancestor_neither_train_nor_judge() -> None:
    between = next(f"u{n}" for n in range(99) if 0.3 <= bucket("t", f"u{n}", "holdout") < 0.5)
    outcomes = [make_outcome(n, user=between) for n in range(2)]
    messages: list[Outcome | Trajectory] = [*ALL_OUTCOMES, *outcomes, *map(make_trajectory, outcomes)]
    half = NO_LIMITS.model_copy(update={"holdout_share": 0.5})
    snapshot = assemble(RANGES, map(record_of, messages), half, untouched_share=0.3)
    assert snapshot.judged_share == 0.3 and {case.user for case in snapshot.heldout} == {f"t/{HELD_OUT}"}
    assert f"t/{between}" not in {case.user for case in snapshot.training} and not snapshot.sft_examples
    assert snapshot.counts["outcomes.trained_an_ancestor"] == 2
    assert {case.user for case in make_snapshot(messages, half).heldout} == {f"t/{HELD_OUT}", f"t/{between}"}


def test_a_holdout_share_below_the_parents_is_the_judged_share() -> None:
    assert assemble(RANGES, [], NO_LIMITS.model_copy(update={"holdout_share": 0.1}), untouched_share=0.3).judged_share == 0.1


def test_unusable_records_are_counted_by_reason() -> None:
    trajectory = make_trajectory(make_outcome(9, user=TRAINING))
    unusable: list[Outcome | Trajectory] = [
        make_outcome(0, truth=None),
        make_outcome(1, truth="  "),
        make_outcome(2, truth="c"),
        make_outcome(3, base=" "),
        make_outcome(4, options=(), truth="all is well</personalized>"),
        make_trajectory(make_outcome(4, user=TRAINING, options=(), truth="<think> is how it begins")),
        trajectory.model_copy(update={"example_id": trajectory.trajectory_id}),
        make_trajectory(make_outcome(5, user=TRAINING), reasoning=" "),
    ]
    snapshot = make_snapshot(unusable)
    assert not snapshot.rows
    reasons = {name: count for name, count in snapshot.counts.items() if name.count(".") and not name.endswith(".read")}
    assert reasons == {
        "outcomes.no_truth": 2,
        "outcomes.truth_outside_options": 1,
        "outcomes.no_base_answer": 1,
        "outcomes.truth_holds_marks": 1,
        "trajectories.truth_holds_marks": 1,
        "trajectories.no_example": 1,
        "trajectories.empty_reasoning": 1,
    }


def test_malformed_records_are_counted_and_skipped() -> None:
    sound = record_of(MESSAGES[0])
    broken = [
        SimpleNamespace(topic="outcomes", headers=sound.headers, value=b"{"),
        SimpleNamespace(topic="outcomes", headers=[], value=sound.value),
        SimpleNamespace(topic="trajectories", headers=sound.headers, value=sound.value),
    ]
    snapshot = assemble(RANGES, [*broken, sound], NO_LIMITS)
    assert snapshot.counts["outcomes.malformed"] == 2 and snapshot.counts["trajectories.malformed"] == 1 and snapshot.counts["outcomes"] == 1


def test_data_from_before_an_erasure_request_neither_trains_nor_judges() -> None:
    later = make_outcome(999, user=TRAINING)
    records = [*map(record_of, MESSAGES), record_of(later)]
    snapshot = assemble(RANGES, [*records, *(erasure_record(user, NOON + timedelta(hours=1)) for user in (TRAINING, HELD_OUT))], NO_LIMITS)
    assert not snapshot.rows  # the later query shows items from before the request
    assert (snapshot.counts["outcomes.erased"], snapshot.counts["trajectories.erased"], snapshot.counts["erasures.read"]) == (9, 8, 2)
    without_items = make_outcome(999, user=HELD_OUT, items=0)
    kept = assemble(
        RANGES, [*records, record_of(without_items), erasure_record(HELD_OUT, NOON + timedelta(hours=1)), erasure_record(HELD_OUT, NOON)], NO_LIMITS
    )
    assert [case.case_id for case in kept.heldout] == [str(without_items.outcome_id)] and len(kept.training) == 5


def test_a_malformed_erasure_still_erases_the_user_in_its_key() -> None:
    at = NOON + timedelta(hours=1)
    snapshot = assemble(RANGES, [*map(record_of, MESSAGES), erasure_record(TRAINING, at, value=b"{"), erasure_record(HELD_OUT, at, value=None)], NO_LIMITS)
    assert not snapshot.training and not snapshot.sft_examples and len(snapshot.heldout) == 4 and snapshot.counts["erasures.malformed"] == 1


def test_a_record_in_the_parents_ranges_is_old_however_it_is_repeated() -> None:
    def replayed(offsets: list[int]) -> int:
        return assemble(RANGES, [record_of(MESSAGES[-2], offset) for offset in offsets], NO_LIMITS, parent_ranges={"trajectories": {0: (0, 5)}}).counts[
            "replayed"
        ]

    assert [replayed([4]), replayed([5]), replayed([4, 5]), replayed([5, 4])] == [1, 0, 1, 1]


def test_the_item_that_the_reasoning_uses_comes_first() -> None:
    trajectory = make_trajectory(make_outcome(1, user=TRAINING))
    second = trajectory.outcome.response.context.items[1]
    (example,) = make_snapshot([trajectory.model_copy(update={"example_id": second.interaction_id})]).sft_examples
    assert example.items[0] == second and len(example.items) == 3


def test_a_snapshot_is_written_as_parquet_with_its_manifest(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    snapshot = make_snapshot(MESSAGES)
    directory = write_snapshot(snapshot, load(stack={"dir": tmp_path}), "1.2.3")
    assert directory == tmp_path / "snapshots" / snapshot.digest
    table = pq.read_table(directory / "rows.parquet")
    assert table.num_rows == len(snapshot.rows) and set(table.column_names) == {"kind", "row_id", "held_out", "message"}
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["digest"] == snapshot.digest and manifest["code_version"] == "1.2.3" and manifest["seed"] == 0
    assert manifest["ranges"] == {"outcomes": {"0": [0, 9], "1": [3, 5]}, "trajectories": {"0": [0, 4]}}


@pytest.mark.parametrize(
    ("before", "new"), [({}, 6), ({"outcomes": {0: (0, 9), 1: (3, 5)}}, 0), ({"outcomes": {0: (0, 4)}}, 5 + 2), ({"outcomes": {0: (0, 99)}}, 2)]
)
def test_offsets_beyond_earlier_ranges(before: Ranges, new: int) -> None:
    ranges = {"outcomes": {0: (5, 9), 1: (3, 5)}} if not before else RANGES
    assert offsets_beyond(ranges, before, OUTCOMES) == new
    assert offsets_beyond(RANGES, RANGES, TRAJECTORIES) == 0


def test_a_silent_broker_is_retried_later(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = MemoryConsumer({"outcomes": {0: [], 1: [], 2: []}})
    monkeypatch.setattr("infra.kafka.topic_reader.groupless_consumer", lambda *args, **options: silent)
    monkeypatch.setattr("trainer.data.collect.SILENCE_S", 0.0)
    with TopicReader(load(), "test") as reader, pytest.raises(RetryLater, match="2 partitions hold more; is the broker up"):
        list(read_ranges(reader, {"outcomes": {0: (0, 9), 1: (3, 5), 2: (4, 4)}}, threading.Event()))


def version(parent: str | None, **tags: str) -> RegisteredVersion:
    return RegisteredVersion("m", "2", "d", parent, datetime.now(UTC), tags=tags)


@pytest.mark.parametrize(
    ("trained", "share"),
    [
        (None, 1.0),
        (version(None), 1.0),  # shipped
        (version("1", **{HOLDOUT_SHARE: "0.3"}), 0.3),
        (version("1"), 0.0),
        (version("1", **{HOLDOUT_SHARE: "some"}), 0.0),
    ],
)
def test_the_untouched_share_is_read_from_the_versions_tag(trained: RegisteredVersion | None, share: float) -> None:
    assert untouched_share(trained) == share


@pytest.mark.parametrize("judges", [False, True])
def test_a_plan_reports_that_fewer_users_judge_than_are_held_out(judges: bool) -> None:
    settings = load(trainer={"holdout_share": 0.5, "min_trajectories": 1, "min_heldout_users": 1, "min_users": 1, "min_domains": 1})
    between = next(f"u{n}" for n in range(99) if 0.3 <= bucket("t", f"u{n}", "holdout") < 0.5)
    below = next(f"u{n}" for n in range(99) if is_held_out("t", f"u{n}", 0.3))
    trains = next(f"u{n}" for n in range(99) if not is_held_out("t", f"u{n}", 0.5))
    records = [record_of(message) for message in (make_trajectory(make_outcome(user=trains)), make_outcome(user=below if judges else between))]
    plan = plan_run(assemble({}, records, settings.trainer, untouched_share=0.3), settings)
    assert plan.train is judges and "judged by users below 0.3 only, not trainer.holdout_share 0.5" in plan.reason
    assert "judged by" not in plan_run(assemble({}, records, settings.trainer), settings).reason
