import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from infra.settings.rewrite_limits import RewriteLimits
from infra.settings.training import SftSettings, TrainerSettings
from schemas.domain_entries import DomainEntry
from schemas.domains import Domains
from schemas.prompts import COMPACT, PromptForm, PromptStyle
from tests.support.file_size_limit import file_size_limit
from tests.support.outcomes import make_sft_example
from tests.support.token_limits import limits
from trainer.data.prompts import Prompter
from trainer.data.query_cases import SftExample
from trainer.interruption import Interrupted
from trainer.learn.policy import Policy
from trainer.learn.sft import check_labels, row_order, sft_rows, tokens, train


def make_examples(count: int) -> list[SftExample]:
    return [make_sft_example(number) for number in range(count)]


@pytest.mark.timeout(300)
def test_sft_lowers_the_loss_within_seconds(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    sft = SftSettings(batch_size=4, max_steps=20, epochs=50, learning_rate=1e-2)
    fit = train(policy, make_examples(8), prompter, TrainerSettings(sft=sft), threading.Event())
    assert fit.steps == 20
    assert fit.losses[-1] < 0.6 * fit.losses[0]


def test_without_epochs_the_weights_stay_as_they_are(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    fit = train(policy, make_examples(4), prompter, TrainerSettings(sft=SftSettings(epochs=0)), threading.Event())
    assert (fit.steps, fit.losses, fit.left_out) == (0, [], 0)
    assert all(before[name].equal(weight) for name, weight in policy.model.state_dict().items())


def test_a_stop_ends_sft_between_two_steps(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        train(
            policy,
            make_examples(4),
            Prompter(policy.tokenizer, COMPACT, limits(512)),
            TrainerSettings(sft=SftSettings(batch_size=2, max_steps=50, epochs=50)),
            stop,
        )


def test_a_full_disk_during_a_checkpoint_is_an_os_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    policy, sft = Policy.load(tiny_checkpoint), SftSettings(batch_size=2, max_steps=2, epochs=50)
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    with file_size_limit(10_000), pytest.raises(OSError, match=f"{tmp_path}: "):
        train(policy, make_examples(4), prompter, TrainerSettings(sft=sft, checkpoint_every=1), threading.Event(), tmp_path)


def test_examples_show_k_items_and_leave_out_what_does_not_fit(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    one_item, two_items = (sft_rows(make_examples(1), prompter, SftSettings(k=k), 0) for k in (1, 2))
    assert "item 0 => b" in one_item[0]["prompt"] and "item 1" not in one_item[0]["prompt"]
    assert two_items[0]["prompt"].index("item 1") < two_items[0]["prompt"].index("item 0")
    assert one_item[0]["completion"] == "<think>they like b</think><personalized>b</personalized>"
    assert sft_rows(make_examples(1), prompter, SftSettings(max_length=40), 0) == []
    mixed = sft_rows(make_examples(30), prompter, SftSettings(k_max=3), 0)
    assert {row["prompt"].count("=>") for row in mixed} == {1, 2, 3}


def test_examples_of_a_domain_show_its_own_k(tiny_checkpoint: Path) -> None:
    form = PromptForm(PromptStyle.COMPACT, Domains({"letters": DomainEntry(k=2)}))
    prompter = Prompter(Policy.load(tiny_checkpoint).tokenizer, form, limits(512))
    examples = [*make_examples(20), *(make_sft_example(number, domain="others") for number in range(20))]
    for settings, others in ((SftSettings(), {1}), (SftSettings(k_max=3), {1, 2, 3})):
        shown = [row["prompt"].count("=>") for row in sft_rows(examples, prompter, settings, 0)]
        assert (set(shown[:20]), set(shown[20:])) == ({2}, others)


def test_completions_that_serving_would_cut_off_are_left_out_and_counted(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    row = sft_rows(make_examples(1), Prompter(policy.tokenizer, COMPACT, limits(512)), SftSettings(), 0)[0]
    answer = len(policy.tokenizer(row["completion"])["input_ids"]) + 1  # with its end token
    for limit, kept in ((answer, [row]), (answer - 1, [])):
        assert sft_rows(make_examples(1), Prompter(policy.tokenizer, COMPACT, limits(512, limit)), SftSettings(), 0) == kept
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512, answer))
    fit = train(
        policy,
        [*make_examples(3), make_sft_example(reasoning="they like b most of all")],
        prompter,
        TrainerSettings(sft=SftSettings(batch_size=1, max_steps=1)),
        threading.Event(),
    )
    assert fit.left_out == 1


def test_a_completion_may_be_as_long_as_its_domains_rewrites(tiny_checkpoint: Path) -> None:
    tokenizer, domains = Policy.load(tiny_checkpoint).tokenizer, Domains({"letters": DomainEntry(max_new_tokens=100)})
    row = sft_rows(make_examples(1), Prompter(tokenizer, COMPACT, limits(512)), SftSettings(), 0)[0]
    length = len(tokenizer(row["completion"])["input_ids"]) + 1
    for room, kept in ((length - 100, 2), (length - 101, 1)):
        prompter = Prompter(tokenizer, COMPACT, RewriteLimits(2048, 512, 512 - room, domains))
        assert len(sft_rows([*make_examples(1), make_sft_example(domain="others")], prompter, SftSettings(), 0)) == kept


def test_an_answer_with_a_control_token_inside_is_left_out_and_counted(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    prompter, plain = Prompter(policy.tokenizer, COMPACT, limits(512)), make_sft_example()
    marked = [make_sft_example(reasoning=f"so {mark}") for mark in ("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<think>")]
    marked.append(make_sft_example(options=(), truth="so <|im_start|>"))
    assert sft_rows(marked, prompter, SftSettings(), 0) == []
    assert len(sft_rows([plain], prompter, SftSettings(), 0)) == 1
    assert sft_rows([plain], prompter, SftSettings(), 0, prompter.chat.ids(plain.reasoning)) == []
    trainer = TrainerSettings(sft=SftSettings(batch_size=1, max_steps=1))
    assert train(policy, [*make_examples(2), *marked], prompter, trainer, threading.Event()).left_out == len(marked)


def test_the_longest_example_that_fits_keeps_its_end_token(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    length = len(tokens(sft_rows(make_examples(1), prompter, SftSettings(), 0)[0], prompter)["input_ids"])
    assert sft_rows(make_examples(1), prompter, SftSettings(max_length=length - 1), 0) == []
    trainer = TrainerSettings(sft=SftSettings(max_length=length, batch_size=1, max_steps=1))
    assert train(policy, make_examples(1), prompter, trainer, threading.Event()).left_out == 0


@pytest.fixture
def with_start_token(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy whose tokenizer adds a start token to every text by default, as Llama's and Mistral's do."""
    copy = tmp_path / "beginning"
    shutil.copytree(tiny_checkpoint, copy)
    content = json.loads((copy / "tokenizer.json").read_text())
    beginning = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [beginning, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [beginning, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [256], "tokens": ["<|endoftext|>"]}},
    }
    (copy / "tokenizer.json").write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize("checkpoint", ["tiny_checkpoint", "with_start_token"])
def test_training_prompts_have_the_same_tokens_as_in_serving(checkpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy.load(request.getfixturevalue(checkpoint))
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    assert (policy.tokenizer("a")["input_ids"][0] == 256) is (checkpoint == "with_start_token")
    trained_rows: list[dict[str, Any]] = []

    def check_and_record(trainer: Any, of: Policy) -> None:
        trained_rows.extend(trainer.train_dataset)
        check_labels(trainer, of)

    monkeypatch.setattr("trainer.learn.sft.check_labels", check_and_record)
    train(policy, make_examples(3), prompter, TrainerSettings(sft=SftSettings(batch_size=1, max_steps=1)), threading.Event())
    rows = sft_rows(make_examples(3), prompter, SftSettings(), 0)
    assert len(trained_rows) == len(rows) == 3
    for trained, row in zip(trained_rows, rows, strict=True):
        prompt = prompter.chat.ids(row["prompt"])
        assert trained["input_ids"] == [*prompter.chat.ids(row["prompt"] + row["completion"]), 258]
        assert trained["input_ids"][: len(prompt)] == prompt
        assert trained["labels"] == [-100] * len(prompt) + trained["input_ids"][len(prompt) :]


def test_the_row_order_has_each_row_once_an_epoch_and_fills_the_last_batch() -> None:
    rows = row_order([3, 9, 4, 4, 7], steps=4, batch_size=3, seed=0)
    assert len(rows) == 12 and sorted(rows[:5]) == sorted(rows[5:10]) == [0, 1, 2, 3, 4]
    assert rows == row_order([3, 9, 4, 4, 7], steps=4, batch_size=3, seed=0) != row_order([3, 9, 4, 4, 7], steps=4, batch_size=3, seed=1)
