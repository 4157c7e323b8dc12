from __future__ import annotations

import sys
from types import FrameType

import pytest

from schemas import rewriting, tasks
from schemas.messages import Message
from schemas.outcomes import Outcome
from schemas.rewriting import Rewrite
from tests.support.worker_messages import TAGS as TAGS_OF_FILMS
from tests.support.worker_messages import make_outcome
from workers.teacher import checks
from workers.teacher.checks import DECIDING, ReasoningLength, first_flaw, why_not_taught
from workers.teacher.reasoning_teacher import RejectionReason

LENGTH = ReasoningLength(8, 100)
LONG = "the lighthouse keeper counts ships"
ASKED = make_outcome(options=(), text="a keeper at work", draft="A keeper counts.", content="old note", shown="my dog, my day", truth=LONG)


@pytest.mark.parametrize(
    "reasoning",
    [
        "like one was comedy so use comedy",
        "their words : the true story of a right hand . copy the manner",
        "The user rates harshly, so 4 becomes 3.",
    ],
)
def test_a_plain_trace_has_no_flaw(reasoning: str) -> None:
    assert first_flaw(Rewrite(reasoning, LONG), ASKED, LENGTH) is None


@pytest.mark.parametrize(
    "outcome",
    [
        make_outcome(options=(), truth=LONG, text=f"So {LONG}."),
        make_outcome(options=(), truth=LONG, draft=f"So {LONG}."),
        make_outcome(options=(), truth=LONG, content=f"So {LONG}."),
        make_outcome(options=(), truth=LONG, shown=f"So {LONG}."),
    ],
)
def test_a_trace_may_quote_the_models_prompt(outcome: Outcome) -> None:
    assert first_flaw(Rewrite(f"They wrote {LONG}", LONG), outcome, LENGTH) is None


@pytest.mark.parametrize("words", ["the truth", "the\u00a0truth", "ground  truth", "the cor\u00adrect answer"])
def test_a_trace_that_mentions_a_given_truth_is_found_in_any_spacing(words: str) -> None:
    assert first_flaw(Rewrite(f"They write like {words}", LONG), ASKED, LENGTH) is RejectionReason.TRUTH_GIVEN


@pytest.mark.parametrize(("truth", "flaw"), [("故宫一日游", None), ("今天去了北京的故宫博物院", RejectionReason.TRUTH_QUOTED)])
def test_a_longer_truth_of_a_script_without_blanks_may_not_be_quoted(truth: str, flaw: RejectionReason | None) -> None:
    outcome = make_outcome(options=(), text="写一个标题", draft="北京", content="旧文", shown="我的狗", truth=truth)
    assert first_flaw(Rewrite(f"他喜欢这样写：{truth}，所以照写", truth), outcome, LENGTH) is flaw


def test_a_trace_may_name_a_short_text_or_an_option() -> None:
    short, tag = make_outcome(options=(), truth="ships again"), make_outcome(options=(LONG, "b"), truth=LONG)
    assert first_flaw(Rewrite("They say ships again", "ships again"), short, LENGTH) is None
    assert first_flaw(Rewrite(f"They choose {LONG}", LONG), tag, LENGTH) is None


@pytest.mark.parametrize(
    ("body", "options", "truth", "same"),
    [
        ('"The  bus"\n', (), "The bus", True),
        ("ﬁne “day”", (), "fine “day”", True),
        ("the bus", (), "The bus", False),  # letter case is how a user writes
        ("The bus.", (), "The bus", False),
        ("cafe\u0301 noir", (), "café noir", True),
        ("ｄａｒｋ ｃｏｍｅｄｙ", TAGS_OF_FILMS, "dark comedy", True),
        ("Dark Comedy", TAGS_OF_FILMS, "dark comedy", True),
        ("'dark comedy'", TAGS_OF_FILMS, "dark comedy", True),
        ("comedy", TAGS_OF_FILMS, "dark comedy", False),
        ("western", TAGS_OF_FILMS, "dark comedy", False),
    ],
)
def test_a_rewrite_equals_the_truth_up_to_blanks_quotes_and_unicode_form(body: str, options: tuple[str, ...], truth: str, same: bool) -> None:
    flaw = first_flaw(Rewrite("they like it dark", body), make_outcome(options=options, truth=truth), LENGTH)
    assert flaw is (None if same else RejectionReason.WRONG_BODY)


def test_every_module_whose_code_decides_is_in_the_digest() -> None:
    """Messages, which only hold data, are left out."""
    called: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        name = str(frame.f_globals.get("__name__"))
        if event == "call" and name.startswith(("schemas.", "workers.")) and not _declares_message(name):
            called.add(name)

    outcomes = [ASKED, make_outcome(), make_outcome(truth=None), make_outcome(truth="COMEDY"), make_outcome(options=("1", "2"), truth="2")]
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for outcome in outcomes:
            if why_not_taught(outcome, holdout_share=0.0) is None:
                first_flaw(Rewrite("they like it, as before", outcome.truth or ""), outcome, LENGTH)
    finally:
        sys.setprofile(before)
    digested = {module.__name__ for module in DECIDING} | {checks.__name__}
    assert {tasks.__name__, checks.__name__} <= called <= digested
    assert rewriting.__name__ in digested, "its tags are control marks"


def _declares_message(name: str) -> bool:
    return any(isinstance(value, type) and issubclass(value, Message) and value.__module__ == name for value in vars(sys.modules[name]).values())


@pytest.mark.parametrize("shown", ["", " \u00a0"])
def test_a_history_without_a_response_teaches_nothing(shown: str) -> None:
    assert why_not_taught(make_outcome(truth=LONG, options=(), shown=shown), 0.0) is RejectionReason.NO_HISTORY
