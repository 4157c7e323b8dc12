"""Settings of the strategies, the methods that personalize answers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, field_validator

from infra.settings.section import MAX_S, Section, Tokens
from schemas.strategies import ExperimentName, Strategy


class ItemForm(StrEnum):
    LINES = "lines"  # one on each line below a heading, as in the reflection prompt; the most similar last
    LAMP = "lamp"  # in one sentence before the task, the most similar first, as LaMP's own code does


class ExampleRetrieval(StrEnum):
    FEATURES = "features"  # by the text of the query's features: RPM
    QUERY = "query"  # by the query's raw text: the paper's ablation, which answers worse


class StrategiesSettings(Section):
    """Which strategy answers a query that names none, and how the strategies other than RPO ask the base model."""

    weights: dict[Strategy, Annotated[float, Field(ge=0)]] = {Strategy.RPO: 1.0}  # noqa: RUF012  # share of users by strategy, relative to the sum
    experiment: ExperimentName = "default"  # a new name gives users new strategies, so that a comparison with new weights starts from nothing
    k: Annotated[int, Field(ge=1, le=100)] = 4  # history items in a prompt, at most retrieval.k_max
    pag_k: Annotated[int, Field(ge=0, le=100)] | None = None  # items beside PAG's summary, at most retrieval.k_max; None: strategies.k; 0: no items
    item_form: ItemForm = ItemForm.LINES  # of RAG's and ICL's items in the style `paper`
    max_new_tokens: Tokens = 256  # of an answer with a chain of thought; other answers have base.max_new_tokens
    #: Kept of the time until the query's deadline for the call of the simpler strategy, but at most half of it; 0: nothing is kept
    deadline_reserve_s: Annotated[float, Field(ge=0, le=MAX_S)] = 0.5
    rpm_examples: Annotated[int, Field(ge=1, le=20)] = 3  # items with reasoning in a prompt of RPM (the paper: 3)
    rpm_retrieval: ExampleRetrieval = ExampleRetrieval.FEATURES  # how these items are found

    @field_validator("weights")
    @classmethod
    def _some_strategy_answers(cls, weights: dict[Strategy, float]) -> dict[Strategy, float]:
        if not sum(weights.values()) > 0:
            raise ValueError("must give at least one strategy a weight above 0")
        return weights
