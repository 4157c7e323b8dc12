from __future__ import annotations

from bench.demo.findings import findings
from bench.demo.quality import judge
from bench.demo.report import RecordCounts
from tests.support.demo_report import exam, report


def _text(*, gain: float = 0.2, **changes: object) -> str:
    whole = report()
    counts = whole.counts.model_copy(update=changes)
    return "\n".join(findings(counts, judge(exam(gain=gain)), whole.models, whole.swap, whole.rewards, whole.statuses))


def test_a_run_without_loss_reports_one_answer_per_query() -> None:
    assert "Each of 5412 queries has exactly one answer." in _text()


def test_lost_and_duplicated_answers_are_reported() -> None:
    text = _text(lost=3, duplicated=1)
    assert "3 of 5412 queries have no answer and 1 have more than one." in text


def test_no_gain_is_reported() -> None:
    assert "no significant difference from the base answer" in _text(gain=0.0)


def test_dead_letters_are_reported_by_topic() -> None:
    assert "2 of queries" in _text(dead_letters={"queries": 2, "drafts": 0})


def test_a_run_without_training_is_reported() -> None:
    counts: RecordCounts = report().counts
    text = "\n".join(findings(counts, judge([]), (), (), (), {}))
    assert "No version was trained in this run." in text
    assert "This run had no RL." in text


def test_base_answers_are_counted_by_status() -> None:
    assert "292 of 5412 answers were the base answer, not a rewrite: 280 unparsable, 12 no history." in _text()


def test_a_champion_that_repeats_the_draft_is_reported() -> None:
    equal_rows = [row._replace(before=row.draft) for row in exam()]
    whole = report()
    assert "repeats the draft until it is trained" in "\n".join(findings(whole.counts, judge(equal_rows), whole.models, whole.swap, (), {}))
    assert "repeats the draft" not in _text()
