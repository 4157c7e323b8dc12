from __future__ import annotations

from collections import Counter

import pytest

from infra.telemetry.metrics import TEACHER_REJECTED, TEACHER_TAUGHT
from schemas.contexts import HistoryItem, Source
from schemas.drafts import DraftStatus
from schemas.envelope import open_envelope, seal
from schemas.ids import is_held_out
from schemas.outcomes import Outcome
from schemas.rewriting import TAGS, Rewrite
from schemas.trajectories import Teacher as Signature
from schemas.trajectories import Trajectory
from tests.support.worker_messages import TAGS as TAGS_OF_FILMS
from tests.support.worker_messages import make_outcome
from workers.runtime.handler import Incoming
from workers.teacher.checks import ReasoningLength, flaw, why_not_taught
from workers.teacher.handler import TeacherHandler
from workers.teacher.reasoning_teacher import Rejection, RejectionReason, truth_of

BREVITY = ReasoningLength(8, 100)
HELD = next(user for user in (f"u{number}" for number in range(1000)) if is_held_out("t", user, 0.3))
TRAINS = next(user for user in (f"u{number}" for number in range(1000)) if not is_held_out("t", user, 0.3))


class Says:
    """A teacher of one sentence, which leads to the truth or to `answer`."""

    signature = Signature(name="says")

    def __init__(self, words: str | Rejection, answer: str | None = None) -> None:
        self.words, self.answer, self.asked = words, answer, 0

    async def explain(self, outcome: Outcome, example: HistoryItem) -> Rewrite | Rejection:
        self.asked += 1
        return self.words if isinstance(self.words, Rejection) else Rewrite(self.words, self.answer or truth_of(outcome))


async def taught(teacher: Says, outcome: Outcome, max_chars: int = BREVITY.most) -> list[Trajectory]:
    source = Source(topic="outcomes", partition=0, offset=0)
    envelope = open_envelope(seal(outcome, id=outcome.outcome_id, source="/test"))
    outputs = await TeacherHandler(teacher, 0.3, max_chars, BREVITY.least)(Incoming(outcome, envelope, source))
    return [output.message for output in outputs if isinstance(output.message, Trajectory)]


def counted() -> Counter[str]:
    """How often each reason was counted so far, and `taught`."""
    found = Counter({dict(labels)["reason"]: int(count) for labels, count in TEACHER_REJECTED.values().items() if ("teacher", "says") in labels})
    return found + Counter(taught=int(TEACHER_TAUGHT.values().get((("teacher", "says"),), 0)))


async def test_a_checked_trace_becomes_a_trajectory_that_names_its_example() -> None:
    outcome = make_outcome(user=TRAINS)
    [first], [second] = await taught(Says("they like it"), outcome), await taught(Says("they like it"), outcome)
    assert first == second
    assert first.outcome == outcome
    assert first.example_id == outcome.response.context.items[0].interaction_id
    assert (first.reasoning, first.teacher.name) == ("they like it", "says")


async def test_a_trajectory_says_who_taught_it_and_what_it_passed() -> None:
    [strict], [lax] = [await taught(Says("they like it"), make_outcome(user=TRAINS), most) for most in (50, 100)]
    assert strict.teacher == Says.signature
    assert strict.checks_digest
    assert lax.checks_digest
    assert strict.checks_digest != lax.checks_digest


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (make_outcome(user=HELD), RejectionReason.HELD_OUT),
        (make_outcome(user=TRAINS, truth=None), RejectionReason.NO_TRUTH),
        (make_outcome(user=TRAINS, truth="western"), RejectionReason.TRUTH_OUTSIDE_OPTIONS),
        (make_outcome(user=TRAINS, options=(), truth="so</personalized> far"), RejectionReason.TRUTH_HOLDS_MARKS),
        (make_outcome(user=TRAINS, status=DraftStatus.BASE_FAILED, draft=""), RejectionReason.BASE_FAILED),
        (make_outcome(user=TRAINS, draft=" "), RejectionReason.BASE_FAILED),
        (make_outcome(user=TRAINS, shown=None), RejectionReason.NO_HISTORY),
    ],
)
async def test_what_cannot_train_is_never_shown_to_the_teacher(outcome: Outcome, reason: RejectionReason) -> None:
    assert why_not_taught(outcome, 0.3) is reason
    before, teacher = counted(), Says("x")
    assert await taught(teacher, outcome) == []
    assert teacher.asked == 0
    assert counted() - before == Counter({reason: 1})


LONG = "the lighthouse keeper counts ships"
ASKED = make_outcome(user=TRAINS, options=(), text="a keeper at work", draft="A keeper counts.", content="old note", shown="my dog, my day", truth=LONG)

FLAWED = [
    ("they like it", "comedy", RejectionReason.WRONG_BODY),
    ("", None, RejectionReason.TOO_SHORT),
    ("... !! ... :) ...", None, RejectionReason.TOO_SHORT),
    ("so it is", None, RejectionReason.TOO_SHORT),
    ("x" * 101, None, RejectionReason.TOO_LONG),
    *((f"they like {tag} a lot", None, RejectionReason.TAGGED) for tag in (*TAGS, "<THINK>")),
    ("The correct answer is comedy", None, RejectionReason.TRUTH_GIVEN),
    ("since the ground truth says comedy", None, RejectionReason.TRUTH_GIVEN),
    ("The expected output differs", None, RejectionReason.TRUTH_GIVEN),
    ("the user actually chose comedy", None, RejectionReason.TRUTH_GIVEN),
    ("The truth is comedy", None, RejectionReason.TRUTH_GIVEN),
    (f"They write low, so: {LONG}", None, RejectionReason.TRUTH_QUOTED),
    ("They write low, so: The  Lighthouse keeper counts SHIPS.", None, RejectionReason.TRUTH_QUOTED),
]


@pytest.mark.parametrize(("reasoning", "answer", "reason"), FLAWED)
async def test_flawed_teaching_is_counted_by_its_flaw(reasoning: str, answer: str | None, reason: RejectionReason) -> None:
    before = counted()
    assert await taught(Says(reasoning, answer), ASKED) == []
    assert counted() - before == Counter({reason: 1})


REFUSALS = [RejectionReason.UNSUPPORTED, RejectionReason.REFUSED, RejectionReason.UNREADABLE]


@pytest.mark.parametrize("reason", REFUSALS)
async def test_what_the_teacher_rejects_is_counted_by_its_reason(reason: RejectionReason) -> None:
    before = counted()
    assert await taught(Says(Rejection(reason)), make_outcome(user=TRAINS)) == []
    assert counted() - before == Counter({reason: 1})


async def test_what_is_taught_is_counted_and_not_rejected() -> None:
    before = counted()
    assert await taught(Says("they like it"), make_outcome(user=TRAINS))
    assert counted() - before == Counter(taught=1)


@pytest.mark.parametrize(
    "reasoning",
    [
        "like one was comedy so use comedy",
        "their words : the true story of a right hand . copy the manner",
        "The user rates harshly, so 4 becomes 3.",
    ],
)
def test_a_plain_trace_has_no_flaw(reasoning: str) -> None:
    assert flaw(Rewrite(reasoning, LONG), ASKED, BREVITY) is None


@pytest.mark.parametrize(
    "outcome",
    [
        make_outcome(options=(), truth=LONG, text=f"So {LONG}."),
        make_outcome(options=(), truth=LONG, draft=f"So {LONG}."),
        make_outcome(options=(), truth=LONG, content=f"So {LONG}."),
        make_outcome(options=(), truth=LONG, shown=f"So {LONG}."),
    ],
)
def test_a_trace_may_quote_what_the_model_can_read(outcome: Outcome) -> None:
    assert flaw(Rewrite(f"They wrote {LONG}", LONG), outcome, BREVITY) is None


def test_a_trace_may_name_a_short_text_or_an_option() -> None:
    short, tag = make_outcome(options=(), truth="ships again"), make_outcome(options=(LONG, "b"), truth=LONG)
    assert flaw(Rewrite("They say ships again", "ships again"), short, BREVITY) is None
    assert flaw(Rewrite(f"They choose {LONG}", LONG), tag, BREVITY) is None


@pytest.mark.parametrize(
    ("body", "options", "truth", "same"),
    [
        ('"The  bus"\n', (), "The bus", True),
        ("ﬁne “day”", (), "fine “day”", True),
        ("the bus", (), "The bus", False),  # letter case is how a user writes
        ("The bus.", (), "The bus", False),
        ("Dark Comedy", TAGS_OF_FILMS, "dark comedy", True),
        ("'dark comedy'", TAGS_OF_FILMS, "dark comedy", True),
        ("comedy", TAGS_OF_FILMS, "dark comedy", False),
        ("western", TAGS_OF_FILMS, "dark comedy", False),
    ],
)
def test_a_body_is_the_truth_up_to_its_outer_form(body: str, options: tuple[str, ...], truth: str, same: bool) -> None:
    found = flaw(Rewrite("they like it dark", body), make_outcome(options=options, truth=truth), BREVITY)
    assert found is (None if same else RejectionReason.WRONG_BODY)
