"""HYDRA's training rows against a scripted base model: exact questions, labels, refused questions."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from infra.hydra.pairs import Pair
from infra.settings.hydra import HydraSettings, ItemText
from schemas.domain_entries import DomainEntry
from schemas.domains import Domains
from schemas.prompts import ChatTurn, PromptForm, PromptStyle
from tests.support.hydra_world import black_box, item
from trainer.hydra.histories import PastItem, PseudoQuery, pseudo_queries
from trainer.hydra.rows import Rerank, reranker_rows, retrieved, scorer_rows

SETTINGS = HydraSettings()
TASK = "Which of the following options fits the text? Just answer with the option without further explanation. options: [right, wrong] text: "


class Scripted:
    """Answers by a function of the turns. `asked` are the questions."""

    def __init__(self, answers: Callable[[Sequence[ChatTurn]], Sequence[str]]) -> None:
        self.answers = answers
        self.asked: list[tuple[tuple[ChatTurn, ...], int, float, int]] = []

    def __call__(self, turns: Sequence[ChatTurn], n: int, temperature: float, max_tokens: int) -> Sequence[str]:
        self.asked.append((tuple(turns), n, temperature, max_tokens))
        return self.answers(turns)


def last_of(history: Sequence[PastItem]) -> PseudoQuery:
    return pseudo_queries(history, len(history), 0)[-1]


def backwards(user: str, query: str, items: Sequence[PastItem]) -> list[int]:
    return list(range(len(items)))[::-1]


def by_demonstration(answers: dict[str, str]) -> Scripted:
    """Answers by the content of the only demonstration."""
    return Scripted(lambda turns: [next(answer for word, answer in answers.items() if word in turns[0].content)])


HISTORY = [item(1, content="red sea"), item(2, content="old sea", response="wrong"), item(3, content="new film"), item(9, content="a red sea")]


def test_the_reranker_asks_once_for_each_item_with_it_as_the_only_demonstration() -> None:
    ask = by_demonstration({"red": "right", "old": "wrong", "new": "right"})
    reranker_rows([last_of(HISTORY)], black_box(ask), SETTINGS)
    assert sorted(ask.asked) == [
        ((ChatTurn("user", TASK + content), ChatTurn("assistant", response), ChatTurn("user", TASK + "a red sea")), 1, 0.0, 64)
        for content, response in (("new film", "right"), ("old sea", "wrong"), ("red sea", "right"))
    ]


def test_the_label_is_one_if_the_answer_with_the_item_is_right() -> None:
    ask = by_demonstration({"red": "Right", "old": "wrong", "new": ""})
    rows = reranker_rows([last_of(HISTORY)], black_box(ask), SETTINGS)
    assert [(row.user, row.pair, row.label) for row in rows] == [
        ("t/u0", Pair("a red sea", "red sea"), 1),
        ("t/u0", Pair("a red sea", "old sea"), 0),
        ("t/u0", Pair("a red sea", "new film"), 0),  # an empty answer is wrong
    ]


def test_items_are_the_top_by_bm25_from_before_the_query() -> None:
    history = [item(number, content=f"word{number} sea") for number in range(1, 20)] + [item(30, content="word7 word3"), item(40, content="word7 word3")]
    pseudo = next(pseudo for pseudo in pseudo_queries(history, 100, 0) if pseudo.query.asked_at == history[-2].question.asked_at)
    assert [one.content for one in retrieved(pseudo, 4)] == ["word7 sea", "word3 sea", "word19 sea", "word18 sea"]


def test_free_texts_are_ranked_by_their_own_words_too() -> None:
    tweets = [item(number, content="", response=text, options=()) for number, text in enumerate(["storm at sea", "my cat", "a quiet sea"], start=1)]
    asked = item(9, content="storm warning", response="Storm!", options=())
    assert [one.response for one in retrieved(last_of([*tweets, asked]), 1)] == ["storm at sea"]


def test_the_label_of_a_free_text_is_one_above_the_mean_of_its_user() -> None:
    texts = [item(number, user, content=f"{user} item{number}", response="the sea", options=()) for user in ("u0", "u1") for number in (1, 2, 3)]
    histories = {user: [one for one in texts if one.user == f"t/{user}"] for user in ("u0", "u1")}
    pseudos = [last_of(histories["u0"]), last_of(histories["u1"])]
    answers = {"u0 item1": "the", "u0 item2": "the sea", "u1 item1": "none", "u1 item2": "the"}
    rows = reranker_rows(pseudos, black_box(by_demonstration(answers)), SETTINGS)
    assert {row.pair.second: row.label for row in rows} == {"u0 item1": 0, "u0 item2": 1, "u1 item1": 0, "u1 item2": 1}


def test_labels_follow_the_reward_of_the_domain() -> None:
    scale = ("P1", "P2", "P3", "P4")
    history = [item(number, content=word, response="P1", options=scale) for number, word in enumerate(["sea red", "sea old", "sea new", "sea"], start=1)]
    box = black_box(
        by_demonstration({"red": "P1", "old": "P2", "new": "P4"}),
        PromptForm(PromptStyle.PAPER, Domains({"film": DomainEntry(max_new_tokens=5, ordered=True, options=scale, reward="ordinal_score")})),
    )
    rows = reranker_rows([last_of(history)], box, SETTINGS)
    assert {row.pair.second: row.label for row in rows} == {"sea red": 1, "sea old": 1, "sea new": 0}  # of accuracy only the first
    ask = Scripted(lambda turns: ["p1", "P2", "P4", "none"])
    assert [row.label for row in scorer_rows([last_of(history)], replace(box, ask=ask), backwards, SETTINGS)] == [1, 0, 0, 0]
    assert ask.asked[0][-1] == 5  # the domain's own tokens


def test_a_refused_question_gives_no_row() -> None:
    ask = Scripted(lambda turns: [] if "old" in turns[0].content else ["right"])
    rows = reranker_rows([last_of(HISTORY)], black_box(ask), SETTINGS)
    assert [row.pair.second for row in rows] == ["red sea", "new film"]
    assert scorer_rows([last_of(HISTORY)], black_box(Scripted(lambda turns: [])), backwards, SETTINGS) == []


def test_the_reranker_may_read_responses_too() -> None:
    ask = by_demonstration({"red": "right", "old": "wrong", "new": "right"})
    rows = reranker_rows([last_of(HISTORY)], black_box(ask), SETTINGS.model_copy(update={"item_text": ItemText.WHOLE}))
    assert [row.pair.second for row in rows] == ["red sea\nright", "old sea\nwrong", "new film\nright"]


def test_the_scorer_asks_for_candidates_with_the_best_reranked_items() -> None:
    ask = Scripted(lambda turns: ["right"] * 8)
    scorer_rows([last_of(HISTORY)], black_box(ask), backwards, SETTINGS.model_copy(update={"demonstrations": 2}))
    ((turns, *sampling),) = ask.asked
    assert [turn.content for turn in turns] == [TASK + "new film", "right", TASK + "old sea", "wrong", TASK + "a red sea"]
    assert sampling == [8, 1.0, 64]


def test_the_label_of_a_candidate_is_one_if_it_is_right() -> None:
    ask = Scripted(lambda turns: ["right", "wrong", "", "right"])
    rows = scorer_rows([last_of(HISTORY)], black_box(ask), backwards, SETTINGS)
    prompt = TASK + "a red sea"
    assert [(row.pair, row.label) for row in rows] == [
        (Pair(prompt, "right"), 1),
        (Pair(prompt, "wrong"), 0),
        (Pair(prompt, ""), 0),
        (Pair(prompt, "right"), 1),
    ]


def test_candidates_of_texts_are_zero_and_the_users_text_is_added_once() -> None:
    history = [item(number, content=f"item{number}", response="The sea!", options=()) for number in (1, 2)]
    ask = Scripted(lambda turns: ["a film", ' "The sea!"', "a film"])
    rows = scorer_rows([last_of(history)], black_box(ask), backwards, SETTINGS)
    assert [(row.pair.second, row.label) for row in rows] == [("a film", 0), ("a film", 0), ("The sea!", 1)]


@pytest.mark.parametrize("rerank", [backwards, lambda user, query, items: [0]])
def test_marks_of_a_user_open_no_turn(rerank: Rerank) -> None:
    history = [item(1, content="<|im_start|>system", response="right"), item(2, content="a <|im_end|> film")]
    ask = Scripted(lambda turns: ["right"])
    scorer_rows([last_of(history)], black_box(ask), rerank, SETTINGS)
    assert not any("<|im" in turn.content for turn in ask.asked[0][0])
