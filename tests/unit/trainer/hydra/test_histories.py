"""Histories from outcomes, and the time wall of pseudo-queries."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from schemas.contexts import HistoryItem
from schemas.outcomes import Outcome
from tests.support.hydra_world import NOON, item
from tests.support.outcomes import make_outcome
from trainer.hydra.histories import PastItem, histories_of, pseudo_queries

SECOND = timedelta(seconds=1)


def shown_in(outcome: Outcome, earlier: Outcome) -> Outcome:
    """`outcome` with the interaction that the feedback of `earlier` became among its items."""
    context, query = outcome.response.context, earlier.response.context.draft.query
    item = HistoryItem(
        interaction_id=earlier.outcome_id,
        content=query.text,
        response=earlier.truth or "",
        occurred_at=earlier.occurred_at,
        score=0.5,
        source=context.items[0].source,
    )
    context = context.model_copy(update={"items": (item, *context.items)})
    return outcome.model_copy(update={"response": outcome.response.model_copy(update={"context": context})})


def test_a_history_has_items_and_own_answers_in_order_of_time() -> None:
    history = histories_of([make_outcome(5, items=2), make_outcome(1, items=0)])["t/u"]
    assert [(one.content, one.response) for one in history] == [("item 1", "b"), ("item 0", "b"), ("question 1", "b"), ("question 5", "b")]
    assert [one.question.options for one in history] == [("a", "b")] * 4


def test_feedback_that_retrieval_shows_again_counts_once() -> None:
    first, second = make_outcome(1, items=1), make_outcome(5, items=1)
    for outcomes in ([first, shown_in(second, first)], [shown_in(second, first), first]):
        history = histories_of(outcomes)["t/u"]
        assert [one.content for one in history].count("question 1") == 1
        assert next(one for one in history if one.content == "question 1").question.asked_at < first.occurred_at


def test_users_are_apart() -> None:
    assert sorted(histories_of([make_outcome(1, user="u"), make_outcome(1, user="v")])) == ["t/u", "t/v"]


def test_a_pseudo_query_sees_only_what_was_answered_before_it_was_asked() -> None:
    asked_at = NOON + timedelta(minutes=10)
    before = item(1, occurred_at=asked_at - SECOND)
    same_time = item(2, occurred_at=asked_at)
    asked_before_answered_after = item(3, asked_at=NOON, occurred_at=asked_at + SECOND)
    other_domain = item(4, domain="book")
    query = item(10, asked_at=asked_at)
    history = [before, same_time, asked_before_answered_after, other_domain, query]
    seen = {pseudo.query.text: list(pseudo.earlier) for pseudo in pseudo_queries(history, 10, 0)}
    assert seen["film 10"] == [before]
    assert "film 1" not in seen  # nothing was before it


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.sampled_from(["film", "book"])), max_size=12), st.integers(1, 5))
def test_no_pseudo_query_sees_itself_or_anything_later(times: list[tuple[int, int, str]], limit: int) -> None:
    history = [
        item(number, domain=domain, asked_at=NOON + asked * SECOND, occurred_at=NOON + (asked + wait) * SECOND)
        for number, (asked, wait, domain) in enumerate(times)
    ]
    pseudos = pseudo_queries(history, limit, 0)
    assert len(pseudos) <= limit
    for pseudo in pseudos:
        assert pseudo.earlier
        assert all(one.occurred_at < pseudo.query.asked_at and one.question.domain == pseudo.query.domain for one in pseudo.earlier)


def test_items_without_a_valid_response_are_shown_but_not_asked() -> None:
    history = [item(1), item(2, response="neither"), item(3, content=" "), item(4, response="WRONG")]
    pseudos = pseudo_queries(history, 10, 0)
    assert [(pseudo.query.text, pseudo.truth) for pseudo in pseudos] == [("film 4", "wrong")]
    assert [one.response for one in pseudos[0].earlier] == ["right", "neither", "right"]


def test_the_choice_follows_the_seed_and_not_the_order() -> None:
    history = [item(number) for number in range(30)]
    chosen = [one.query.text for one in pseudo_queries(history, 5, 1)]
    assert chosen == [one.query.text for one in pseudo_queries(history[::-1], 5, 1)]
    assert chosen != [one.query.text for one in pseudo_queries(history, 5, 2)]
    assert len(chosen) == 5


def test_an_outcome_of_a_score_alone_has_no_answer() -> None:
    scored = make_outcome(1, items=1).model_copy(update={"truth": None})
    assert [one.content for one in histories_of([scored])["t/u"]] == ["item 0"]


def test_an_item_names_its_user() -> None:
    assert isinstance(one := item(1, "u7"), PastItem) and one.user == "t/u7"
