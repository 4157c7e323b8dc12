from __future__ import annotations

import pytest

from infra.telemetry.metrics import TEACHER_REJECTED
from schemas.contexts import HistoryItem, Source
from schemas.drafts import DraftStatus
from schemas.envelope import open_envelope, seal
from schemas.ids import is_held_out
from schemas.outcomes import Outcome
from schemas.rewriting import TAGS
from schemas.trajectories import Teacher as Signature
from schemas.trajectories import Trajectory
from tests.unit.workers.made import make_outcome
from workers.runtime.handler import Incoming
from workers.teacher.checks import flaw, why_not_taught
from workers.teacher.instruction import Instruction
from workers.teacher.teaching import Reason, Rejected

HELD = next(user for user in (f"u{number}" for number in range(1000)) if is_held_out("t", user, 0.3))
TRAINS = next(user for user in (f"u{number}" for number in range(1000)) if not is_held_out("t", user, 0.3))


class Says:
    """A teacher of one sentence."""

    signature = Signature(name="says")

    def __init__(self, words: str | Rejected) -> None:
        self.words, self.asked = words, 0

    async def explain(self, outcome: Outcome, example: HistoryItem) -> str | Rejected:
        self.asked += 1
        return self.words


async def taught(teacher: Says, outcome: Outcome) -> list[Trajectory]:
    source = Source(topic="outcomes", partition=0, offset=0)
    envelope = open_envelope(seal(outcome, id=outcome.outcome_id, source="/test"))
    outputs = await Instruction(teacher, 0.3, 100)(Incoming(outcome, envelope, source))
    return [output.message for output in outputs if isinstance(output.message, Trajectory)]


def rejected(reason: Reason) -> float:
    return TEACHER_REJECTED.values().get((("reason", str(reason)), ("teacher", "says")), 0)


async def test_a_checked_trace_becomes_a_trajectory_that_names_its_example() -> None:
    outcome = make_outcome(user=TRAINS)
    [first], [second] = await taught(Says("they like it"), outcome), await taught(Says("they like it"), outcome)
    assert first == second
    assert first.outcome == outcome
    assert first.example_id == outcome.response.context.items[0].interaction_id
    assert (first.reasoning, first.teacher.name) == ("they like it", "says")


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (make_outcome(user=HELD), Reason.HELD_OUT),
        (make_outcome(user=TRAINS, truth=None), Reason.NO_TRUTH),
        (make_outcome(user=TRAINS, status=DraftStatus.BASE_FAILED, draft=""), Reason.BASE_FAILED),
        (make_outcome(user=TRAINS, shown=None), Reason.NO_HISTORY),
    ],
)
async def test_what_cannot_train_is_never_shown_to_the_teacher(outcome: Outcome, reason: Reason) -> None:
    assert why_not_taught(outcome, 0.3) is reason
    before, teacher = rejected(reason), Says("x")
    assert await taught(teacher, outcome) == []
    assert teacher.asked == 0
    assert rejected(reason) == before + 1


async def test_what_the_teacher_rejects_is_counted_by_its_reason() -> None:
    before = rejected(Reason.UNSUPPORTED)
    assert await taught(Says(Rejected(Reason.UNSUPPORTED)), make_outcome(user=TRAINS)) == []
    assert rejected(Reason.UNSUPPORTED) == before + 1


async def test_a_flawed_trace_is_counted_by_its_flaw() -> None:
    before = rejected(Reason.TRUTH_GIVEN)
    assert await taught(Says("The correct answer is comedy."), make_outcome(user=TRAINS)) == []
    assert rejected(Reason.TRUTH_GIVEN) == before + 1


@pytest.mark.parametrize(
    ("reasoning", "reason"),
    [
        ("", Reason.EMPTY),
        ("  \n", Reason.EMPTY),
        ("x" * 101, Reason.TOO_LONG),
        *((f"a {tag} b", Reason.TAGGED) for tag in TAGS),
        ("a <THINK> b", Reason.TAGGED),
        ("The correct answer is comedy", Reason.TRUTH_GIVEN),
        ("since the ground truth says comedy", Reason.TRUTH_GIVEN),
        ("The expected output differs", Reason.TRUTH_GIVEN),
        ("the user actually chose comedy", Reason.TRUTH_GIVEN),
        ("The truth is comedy", Reason.TRUTH_GIVEN),
        ("like one was comedy so use comedy", None),
        ("their words : the true story of a right hand . copy the manner", None),
        ("The user rates harshly, so 4 becomes 3.", None),
    ],
)
def test_checks(reasoning: str, reason: Reason | None) -> None:
    assert flaw(reasoning, 100) is reason
