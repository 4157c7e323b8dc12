"""A whole training in a world where an item helps by the user's taste: trained users, new users, users without a head."""

from pathlib import Path

import pytest
import torch

from infra.errors import CannotContinue
from infra.hydra.checkpoint import HydraCheckpoint, Part, load_hydra, save_hydra, user_digest
from infra.hydra.model import HydraModel
from infra.settings.hydra import HydraSettings
from tests.support.collected_records import HELD_OUT, TRAINING, make_snapshot
from tests.support.hydra_world import TasteBox, black_box, helpful, histories
from tests.support.outcomes import make_outcome
from tests.support.tiny_encoder import make_encoder, settings_for
from trainer.hydra.training import HydraTraining, encoder_users

WORLD = histories(6)
TRAINED, NEW = [f"t/u{number}" for number in range(4)], ["t/u4", "t/u5"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> HydraSettings:
    return settings_for(make_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def trained(settings: HydraSettings) -> HydraCheckpoint:
    return HydraTraining(settings, black_box(TasteBox()), 0).train({user: WORLD[user] for user in TRAINED})[0]


@pytest.fixture(scope="module")
def with_new(settings: HydraSettings, trained: HydraCheckpoint) -> HydraCheckpoint:
    return HydraTraining(settings, black_box(TasteBox()), 0).with_heads(trained, {user: WORLD[user] for user in NEW})


def test_heads_put_the_items_first_that_help_their_user(trained: HydraCheckpoint) -> None:
    assert helpful(trained, TRAINED) > 0.9


def test_a_new_users_head_is_fitted_on_its_own_history(trained: HydraCheckpoint, with_new: HydraCheckpoint) -> None:
    assert helpful(trained, NEW) == 0.5  # the shared head puts one taste first, for both
    assert helpful(with_new, NEW) > 0.9
    assert helpful(with_new, TRAINED) == helpful(trained, TRAINED)


def test_new_heads_change_neither_encoders_nor_other_heads(trained: HydraCheckpoint, with_new: HydraCheckpoint) -> None:
    for part in Part:
        before, after = trained.networks[part], with_new.networks[part]
        assert after.heads.count == before.heads.count + 2
        assert torch.equal(after.heads.dense_weight[: before.heads.count], before.heads.dense_weight)
        assert after.encoder is before.encoder
        assert [with_new.heads.rows(part)[user_digest(user)] for user in NEW] == [5, 6]


def test_the_scorer_prefers_the_right_answer(trained: HydraCheckpoint) -> None:
    model = HydraModel(trained)
    chosen = [model.choose(user, f"tag : alpha film {query}", ["wrong", "right", "wrong"]).position for user in TRAINED for query in range(60, 65)]
    assert chosen == [1] * len(chosen)


def test_a_head_that_exists_is_fitted_again_in_its_row(settings: HydraSettings, trained: HydraCheckpoint) -> None:
    again = HydraTraining(settings, black_box(TasteBox()), 0).with_heads(trained, {"t/u0": WORLD["t/u0"]})
    assert again.heads == trained.heads
    row = trained.heads.reranker[user_digest("t/u0")]
    weights = [checkpoint.networks[Part.RERANKER].heads.dense_weight for checkpoint in (trained, again)]
    assert [bool(torch.equal(weights[0][number], weights[1][number])) for number in range(5)] == [number != row for number in range(5)]


def test_a_saved_training_serves_the_same(with_new: HydraCheckpoint, tmp_path: Path) -> None:
    save_hydra(tmp_path / "hydra", with_new)
    assert helpful(load_hydra(tmp_path / "hydra"), [*TRAINED, *NEW]) == helpful(with_new, [*TRAINED, *NEW])


def test_a_user_with_few_rows_has_no_head(settings: HydraSettings, trained: HydraCheckpoint) -> None:
    short = {"t/u4": WORLD["t/u4"][:2]}  # one row of the reranker, eight of the scorer
    least = settings.model_copy(update={"min_rows": 9})
    assert HydraTraining(least, black_box(TasteBox()), 0).with_heads(trained, short).heads == trained.heads


def test_users_without_history_train_nothing(settings: HydraSettings) -> None:
    with pytest.raises(CannotContinue, match=r"hydra\.min_rows=4"):
        HydraTraining(settings, black_box(TasteBox()), 0).train({"t/u0": WORLD["t/u0"][:1]})


def test_held_out_users_train_no_encoder_and_get_heads_from_before_they_judge(settings: HydraSettings) -> None:
    """`item 0` to `item 2` are from before all questions; the held-out user's own questions judge."""
    outcomes = [make_outcome(number, user=user, options=("right", "wrong"), truth="right") for number in range(6) for user in (TRAINING, HELD_OUT)]
    alone = [outcome for outcome in outcomes if outcome.response.context.draft.query.user == TRAINING]
    box, own = TasteBox(), TasteBox()
    least = settings.model_copy(update={"epochs": 1, "min_rows": 1})
    training = HydraTraining(least, black_box(box), 0)
    checkpoint, _ = training.train_snapshot(make_snapshot(outcomes))
    without_heldout, _ = HydraTraining(least, black_box(own), 0).train_snapshot(make_snapshot(alone))
    for part in Part:
        expected, trained_part = without_heldout.networks[part], checkpoint.networks[part]
        assert all(torch.equal(a, b) for a, b in zip(expected.encoder.parameters(), trained_part.encoder.parameters(), strict=True))
        assert torch.equal(trained_part.heads.dense_weight[:2], expected.heads.dense_weight)
        assert checkpoint.heads.rows(part)[user_digest(f"t/{HELD_OUT}")] == 2
    asked = [turns[-1].content for turns, *_ in box.asked[len(own.asked) :]]
    assert asked and all("question" not in content for content in asked)


def test_users_with_most_history_train_the_encoders() -> None:
    lengths = {"t/u0": 3, "t/u1": 9, "t/u2": 5, "t/u3": 9}
    chosen = encoder_users({user: WORLD[user][:count] for user, count in lengths.items()}, 3)
    assert sorted(chosen) == ["t/u1", "t/u2", "t/u3"]
    assert list(encoder_users({user: WORLD[user] for user in TRAINED}, 2)) == list(encoder_users({user: WORLD[user] for user in TRAINED[::-1]}, 2))


def test_only_the_chosen_users_are_asked_about(settings: HydraSettings) -> None:
    box = TasteBox()
    HydraTraining(settings.model_copy(update={"users": 1, "epochs": 1}), black_box(box), 0).train({user: WORLD[user] for user in TRAINED})
    assert len({turns[-1].content.split()[-1] for turns, *_ in box.asked}) == 1
