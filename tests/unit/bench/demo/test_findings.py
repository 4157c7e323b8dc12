from __future__ import annotations

from bench.demo.findings import findings
from bench.demo.quality import judge
from bench.demo.report import RecordCounts
from tests.support.demo_report import exam, report


def _said(*, gain: float = 0.2, **changes: object) -> str:
    whole = report()
    counts = whole.counts.model_copy(update=changes)
    return "\n".join(findings(counts, judge(exam(gain=gain)), whole.models, whole.swap, whole.rewards, whole.statuses))


def test_a_whole_run_says_that_nothing_was_lost() -> None:
    assert "Every one of 5412 queries has exactly one answer." in _said()


def test_losses_are_not_hidden() -> None:
    said = _said(lost=3, duplicated=1)
    assert "3 of 5412 queries have no answer and 1 have more than one." in said


def test_no_gain_is_said_in_words() -> None:
    assert "no significant difference from the base answer" in _said(gain=0.0)


def test_dead_letters_are_named() -> None:
    assert "2 of queries" in _said(dead_letters={"queries": 2, "drafts": 0})


def test_a_run_that_trained_nothing_says_so() -> None:
    counts: RecordCounts = report().counts
    said = "\n".join(findings(counts, judge([]), (), (), (), {}))
    assert "No version was trained in this run." in said
    assert "There was no RL in this run." in said


def test_answers_that_fell_back_are_counted_by_reason() -> None:
    assert "292 of 5412 answers were the base answer, not a personal one: 280 unparsable, 12 no history." in _said()


def test_a_champion_that_repeats_the_draft_is_called_so() -> None:
    alike = [row._replace(before=row.draft) for row in exam()]
    whole = report()
    assert "repeats the draft until it is taught" in "\n".join(findings(whole.counts, judge(alike), whole.models, whole.swap, (), {}))
    assert "repeats the draft" not in _said()
