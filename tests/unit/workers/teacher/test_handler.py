from __future__ import annotations

from collections import Counter

import pytest

from infra.telemetry.metrics import TEACHER_REJECTED, TEACHER_TAUGHT
from schemas.contexts import HistoryItem
from schemas.drafts import DraftStatus
from schemas.envelope import envelope_headers, read_envelope
from schemas.ids import is_held_out
from schemas.outcomes import Outcome
from schemas.positions import Source
from schemas.rewriting import TAGS, Rewrite
from schemas.trajectories import Teacher as Signature
from schemas.trajectories import Trajectory
from tests.support.worker_messages import make_outcome
from workers.runtime.handler import Incoming
from workers.teacher.checks import ReasoningLength, why_not_taught
from workers.teacher.handler import TeacherHandler
from workers.teacher.reasoning_teacher import Rejection, RejectionReason, truth_of

LENGTH = ReasoningLength(8, 100)
HELD = next(user for user in (f"u{number}" for number in range(1000)) if is_held_out("t", user, 0.3))
TRAINS = next(user for user in (f"u{number}" for number in range(1000)) if not is_held_out("t", user, 0.3))


class OneSentenceTeacher:
    """Writes one sentence, and as its rewrite the truth or `answer`."""

    signature = Signature(name="says")

    def __init__(self, reasoning: str | Rejection, answer: str | None = None) -> None:
        self.reasoning, self.answer, self.calls = reasoning, answer, 0

    async def explain(self, outcome: Outcome, example: HistoryItem) -> Rewrite | Rejection:
        self.calls += 1
        return self.reasoning if isinstance(self.reasoning, Rejection) else Rewrite(self.reasoning, self.answer or truth_of(outcome))


async def trajectories_of(teacher: OneSentenceTeacher, outcome: Outcome, max_chars: int = LENGTH.max_chars) -> list[Trajectory]:
    source = Source(topic="outcomes", partition=0, offset=0)
    envelope = read_envelope(envelope_headers(outcome, id=outcome.outcome_id, source="/test"))
    outputs = await TeacherHandler(teacher, 0.3, ReasoningLength(LENGTH.min_chars, max_chars))(Incoming(outcome, envelope, source))
    return [output.message for output in outputs if isinstance(output.message, Trajectory)]


def counts() -> Counter[str]:
    """The counters of rejections by reason, and of `taught`."""
    rejected = Counter({dict(labels)["reason"]: int(count) for labels, count in TEACHER_REJECTED.values().items() if ("teacher", "says") in labels})
    return rejected + Counter(taught=int(TEACHER_TAUGHT.values().get((("teacher", "says"),), 0)))


async def test_a_checked_trace_becomes_a_trajectory_that_names_its_example() -> None:
    outcome = make_outcome(user=TRAINS)
    [first], [second] = await trajectories_of(OneSentenceTeacher("they like it"), outcome), await trajectories_of(OneSentenceTeacher("they like it"), outcome)
    assert first == second
    assert first.outcome == outcome
    assert first.example_id == outcome.response.context.items[0].interaction_id
    assert (first.reasoning, first.teacher.name) == ("they like it", "says")


async def test_a_trajectory_stores_its_teacher_and_the_digest_of_the_checks() -> None:
    [strict], [lax] = [await trajectories_of(OneSentenceTeacher("they like it"), make_outcome(user=TRAINS), max_chars) for max_chars in (50, 100)]
    assert strict.teacher == OneSentenceTeacher.signature
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
async def test_an_outcome_that_cannot_train_never_reaches_the_teacher(outcome: Outcome, reason: RejectionReason) -> None:
    assert why_not_taught(outcome, 0.3) is reason
    before, teacher = counts(), OneSentenceTeacher("x")
    assert await trajectories_of(teacher, outcome) == []
    assert teacher.calls == 0
    assert counts() - before == Counter({reason: 1})


LONG = "the lighthouse keeper counts ships"
ASKED = make_outcome(user=TRAINS, options=(), text="a keeper at work", draft="A keeper counts.", content="old note", shown="my dog, my day", truth=LONG)

FLAWED = [
    ("they like it", "comedy", RejectionReason.WRONG_BODY),
    ("", None, RejectionReason.TOO_SHORT),
    ("... !! ... :) ...", None, RejectionReason.TOO_SHORT),
    ("so it is", None, RejectionReason.TOO_SHORT),
    ("x" * 101, None, RejectionReason.TOO_LONG),
    *((f"they like {tag} a lot", None, RejectionReason.TAGGED) for tag in (*TAGS, "<THINK>", "<|im_end|>", "[INST]", "</s>")),
    ("The correct answer is comedy", None, RejectionReason.TRUTH_GIVEN),
    ("since the ground truth says comedy", None, RejectionReason.TRUTH_GIVEN),
    ("The expected output differs", None, RejectionReason.TRUTH_GIVEN),
    ("the user actually chose comedy", None, RejectionReason.TRUTH_GIVEN),
    ("The truth is comedy", None, RejectionReason.TRUTH_GIVEN),
    (f"They write low, so: {LONG}", None, RejectionReason.TRUTH_QUOTED),
    ("They write low, so: The  Lighthouse keeper counts SHIPS.", None, RejectionReason.TRUTH_QUOTED),
]


@pytest.mark.parametrize(("reasoning", "answer", "reason"), FLAWED)
async def test_flawed_reasoning_is_counted_by_its_flaw(reasoning: str, answer: str | None, reason: RejectionReason) -> None:
    before = counts()
    assert await trajectories_of(OneSentenceTeacher(reasoning, answer), ASKED) == []
    assert counts() - before == Counter({reason: 1})


REFUSALS = [RejectionReason.UNSUPPORTED, RejectionReason.REFUSED, RejectionReason.UNREADABLE]


@pytest.mark.parametrize("reason", REFUSALS)
async def test_a_rejection_by_the_teacher_is_counted_by_its_reason(reason: RejectionReason) -> None:
    before = counts()
    assert await trajectories_of(OneSentenceTeacher(Rejection(reason)), make_outcome(user=TRAINS)) == []
    assert counts() - before == Counter({reason: 1})


async def test_a_taught_outcome_is_counted_as_taught_only() -> None:
    before = counts()
    assert await trajectories_of(OneSentenceTeacher("they like it"), make_outcome(user=TRAINS))
    assert counts() - before == Counter(taught=1)
