"""Judges a version of HYDRA offline: held-out users' questions, answered by RAG, by the champion and by the candidate, with the prompts of serving.

The items are not those of serving. A case has the items that were retrieved for RPO, by the question and the base answer, `retrieval.k_max` at most; serving
reranks the `hydra.retrieved` items that BM25 ranks first by the question alone. All answers that are compared have the same items, but the reranker
chooses among fewer. The gate keeps harm out. It does not show a gain: `retouch strategies compare` does, on live answers (docs/hydra.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra.hydra.model import HydraModel
from infra.settings.hydra import HydraSettings
from schemas.contexts import HistoryItem
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.demonstrations import demonstration_turns
from schemas.gate import GateResult
from schemas.prompts import ChatTurn, base_prompt, rag_prompt, turns_of
from schemas.run_report import Evaluation
from schemas.sameness import is_blank
from schemas.tasks import read_answer
from trainer.data.query_cases import QueryCase
from trainer.hydra.rows import BlackBox
from trainer.judge.gate import CANDIDATE, CHAMPION

RAG = "rag"
#: (after, before) of the comparisons that decide.
COMPARISONS = ((CANDIDATE, CHAMPION), (CANDIDATE, RAG))


@dataclass(frozen=True)
class Exam:
    """The questions, and what the answers need. `k`: items in a prompt of RAG. Both methods block for the base model."""

    cases: Sequence[QueryCase]
    box: BlackBox
    settings: HydraSettings
    k: int

    def by_rag(self) -> list[str]:
        """RAG's answers at temperature 0; for an unreadable one, and without items, the stored base answer."""
        prompts = [(case, self._rag_turns(case, items)) for case in self.cases if (items := _usable(case)[: self.box.form.domains.k(case.domain, self.k)])]
        answers = self.box.answers([self.box.question(case.query, turns, 1, 0.0) for case, turns in prompts])
        found = {case.case_id: read_answer(texts[0], case.query.options) for (case, _), texts in zip(prompts, answers, strict=True) if texts}
        return [_or(found.get(case.case_id), case.base_answer) for case in self.cases]

    def by_hydra(self, model: HydraModel, by_rag: Sequence[str]) -> list[str]:
        """The answers of one version; RAG's where no candidate is readable."""
        with_items = [(case, items) for case in self.cases if (items := _usable(case)[: self.settings.retrieved])]
        questions = [
            self.box.question(case.query, self._turns(model, case, items), self.settings.candidates, self.settings.temperature) for case, items in with_items
        ]
        found = {case.case_id: self._chosen(model, case, texts) for (case, _), texts in zip(with_items, self.box.answers(questions), strict=True)}
        return [_or(found.get(case.case_id), answer) for case, answer in zip(self.cases, by_rag, strict=True)]

    def _rag_turns(self, case: QueryCase, items: Sequence[HistoryItem]) -> tuple[ChatTurn, ...]:
        form = self.box.form
        return turns_of(case.query, rag_prompt(case.query, items, form, WELL_KNOWN_MARKS), form, WELL_KNOWN_MARKS)

    def _turns(self, model: HydraModel, case: QueryCase, items: Sequence[HistoryItem]) -> tuple[ChatTurn, ...]:
        best = [items[one.position] for one in model.rank(case.user, case.query.text, items)[: self.settings.demonstrations]]
        return demonstration_turns(case.query, best, self.box.form, WELL_KNOWN_MARKS)

    def _chosen(self, model: HydraModel, case: QueryCase, texts: Sequence[str]) -> str | None:
        readable = [(text.strip(), answer) for text in texts if (answer := read_answer(text, case.query.options)) is not None]
        if not readable:
            return None
        task = base_prompt(case.query, self.box.form, WELL_KNOWN_MARKS)
        return readable[model.choose(case.user, task, [text for text, _ in readable]).position][1]


def decide(evaluation: Evaluation) -> GateResult:
    """Rejected if the answers are significantly worse than RAG's or the champion's: the 95 % interval over held-out users lies below 0. Otherwise passed."""
    overall = evaluation.overall
    differences = {before: overall.intervals[name] for after, before in COMPARISONS if (name := f"{after}_minus_{before}") in overall.intervals}
    figures = "; ".join(f"against {before} {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" for before, gain in differences.items())
    worse = [before for before, gain in differences.items() if gain.high < 0]
    reason = f"{figures} over {overall.users} held-out users"
    evidence: dict[str, Any] = {
        "users": overall.users,
        "cases": overall.cases,
        "scores": {arm: round(score, 4) for arm, score in overall.scores.items()},
        "differences": {before: [round(figure, 4) for figure in gain] for before, gain in differences.items()},
    }
    if worse:
        return GateResult(outcome="rejected", reason=f"significantly worse than {' and '.join(worse)}: {reason}", evidence=evidence)
    return GateResult(outcome="passed", reason=f"not significantly worse: {reason}", evidence=evidence)


def _usable(case: QueryCase) -> tuple[HistoryItem, ...]:
    return tuple(item for item in case.items if not is_blank(item.response))


def _or(answer: str | None, other: str) -> str:
    return other if answer is None else answer
