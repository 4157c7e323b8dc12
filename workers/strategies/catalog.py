"""The methods of all strategies but RPO, which has its own worker, and for each strategy the simpler one that answers when it cannot."""

from __future__ import annotations

from collections.abc import Mapping

from infra.errors import PoisonMessage
from infra.settings import Settings
from infra.settings.profiles import ProfilesSettings, ProfileWriter
from infra.settings.strategies import ItemForm
from schemas.lookups import ItemOrder
from schemas.prompts import PromptStyle
from schemas.strategies import Strategy
from workers.features.statistical import statistical_extractor
from workers.strategies.hydra import Hydra
from workers.strategies.hydra_models import HydraModels
from workers.strategies.items_in_prompt import ItemsInPrompt
from workers.strategies.pag import SummaryInPrompt
from workers.strategies.query_features import LlmQueryFeatures, QueryFeatures, StatisticalQueryFeatures
from workers.strategies.rpm import AlignedAnswers
from workers.strategies.strategy import Method
from workers.strategies.zero_shot import ZeroShot

Methods = Mapping[Strategy, Method]

#: The strategy that answers instead. Zero-shot has none.
SIMPLER = {
    Strategy.RPO: Strategy.ZERO_SHOT,
    Strategy.ICL: Strategy.ZERO_SHOT,
    Strategy.RAG: Strategy.ZERO_SHOT,
    Strategy.PAG: Strategy.RAG,
    Strategy.HYDRA: Strategy.RAG,
    Strategy.RPM: Strategy.RAG,
    Strategy.ZERO_SHOT_COT: Strategy.ZERO_SHOT,
    Strategy.RAG_COT: Strategy.RAG,
    Strategy.PAG_COT: Strategy.PAG,
}


def methods_of(settings: Settings, hydra: HydraModels | None = None) -> Methods:
    """Raises BadSetting for languages without an extractor of features."""
    base, own = settings.base, settings.strategies
    similar, first = ItemOrder.SIMILAR, ItemOrder.FIRST
    pag_k = own.k if own.pag_k is None else own.pag_k
    form = settings.base_form
    lamp = own.item_form is ItemForm.LAMP and form.style is PromptStyle.PAPER
    methods: list[Method] = [
        ZeroShot(form, base.max_new_tokens),
        ZeroShot(form, own.max_new_tokens, reasons=True),
        ItemsInPrompt(Strategy.ICL, first, own.k, form, base.max_new_tokens, lamp=lamp),
        ItemsInPrompt(Strategy.RAG, similar, own.k, form, base.max_new_tokens, lamp=lamp),
        ItemsInPrompt(Strategy.RAG_COT, similar, own.k, form, own.max_new_tokens, reasons=True, lamp=lamp),
        SummaryInPrompt(Strategy.PAG, pag_k, own.k, form, base.max_new_tokens),
        SummaryInPrompt(Strategy.PAG_COT, pag_k, own.k, form, own.max_new_tokens, reasons=True),
        Hydra(settings.hydra, form, base.max_new_tokens, hydra),
        _rpm(settings),
    ]
    return {method.strategy: method for method in methods}


def _rpm(settings: Settings) -> Method:
    base, own, profiles = settings.base, settings.strategies, settings.profiles
    form = settings.base_form
    max_tokens = base.max_new_tokens if form.style is PromptStyle.COMPACT else own.max_new_tokens
    return AlignedAnswers(own.k, own.rpm_examples, own.rpm_retrieval, form, max_tokens, _query_features(profiles))


def _query_features(profiles: ProfilesSettings) -> QueryFeatures:
    if profiles.kind is ProfileWriter.LLM:
        return LlmQueryFeatures(profiles.features_tokens)
    return StatisticalQueryFeatures(statistical_extractor(profiles))


def method_of(strategy: Strategy, methods: Methods) -> Method:
    """Raises PoisonMessage for a strategy that this version does not have."""
    try:
        return methods[strategy]
    except KeyError:
        raise PoisonMessage(f"this version has no method for the strategy {strategy}") from None
