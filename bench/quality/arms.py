"""Arms: what is compared. An arm is a strategy, with the number of items, the retriever and the variant where they are not the default.

Written `STRATEGY[#K][@RETRIEVER][:VARIANT]`: `rag`, `rag#2`, `rag@random`, `rpo@bm25`, `rpo:sft`, `rpm:query`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from infra.errors import BadSetting
from infra.settings import Settings
from infra.settings.strategies import ExampleRetrieval
from infra.settings.stream import Retriever
from schemas.strategies import Strategy

#: Each part up to the next sign. Signs in another order, or twice, do not match.
_ARM = re.compile(r"(?P<strategy>[^#@:]*)(?:#(?P<k>[^#@:]*))?(?:@(?P<retriever>[^#@:]*))?(?::(?P<variant>[^#@:]*))?")
_K = re.compile(r"[1-9][0-9]?")


class NeededVersion(StrEnum):
    """A version of the reflection model, or of HYDRA, that arms are answered by. Training runs make them in this order, each on the same data."""

    GIVEN = "given"  # `reflection.checkpoint` as it is; no training
    SFT = "sft"  # without RL
    RPO = "rpo"  # SFT, then RL
    RL = "rl"  # without SFT
    HYDRA = "hydra"  # the reranker and the scorer; the reflection model stays as it is


#: The versions that start from another one; the others start from the first version.
PARENT = {NeededVersion.RPO: NeededVersion.SFT}


class Variant(StrEnum):
    """One strategy without a part, or with another version."""

    SFT = "sft"  # rpo: without RL
    RL = "rl"  # rpo: without SFT
    GIVEN = "given"  # rpo: by `reflection.checkpoint` as it is, such as a version that another run has trained
    QUERY = "query"  # rpm: its examples are those most similar to the query's text, not to its features


#: The variants of each strategy that has some.
VARIANTS = {Strategy.RPO: (Variant.SFT, Variant.RL, Variant.GIVEN), Strategy.RPM: (Variant.QUERY,)}


@dataclass(frozen=True)
class Arm:
    """One arm. None: the default of the settings."""

    strategy: Strategy
    k: int | None = None
    retriever: Retriever | None = None
    variant: Variant | None = None

    @property
    def name(self) -> str:
        k, retriever, variant = (f"#{self.k}" if self.k else ""), (f"@{self.retriever}" if self.retriever else ""), (f":{self.variant}" if self.variant else "")
        return f"{self.strategy}{k}{retriever}{variant}"

    @property
    def version(self) -> NeededVersion | None:
        """The version that answers; None for strategies without a model of their own."""
        if self.strategy is Strategy.HYDRA:
            return NeededVersion.HYDRA
        return self.reflector if self.strategy is Strategy.RPO else None

    @property
    def reflector(self) -> NeededVersion:
        """The version of the reflection model that serves while this arm is asked. Other strategies do not depend on it."""
        return NeededVersion(self.variant) if self.variant and self.strategy is Strategy.RPO else NeededVersion.RPO

    @property
    def needs_profile(self) -> bool:
        """Whether the strategy reads what the profiles worker writes about the user."""
        return self.strategy in (Strategy.PAG, Strategy.PAG_COT, Strategy.RPM)

    def items(self, settings: Settings) -> int:
        """The number of items that its prompts show."""
        own, pag_k = settings.strategies.k, settings.strategies.pag_k
        defaults = {Strategy.RPO: settings.reflection.k} | dict.fromkeys((Strategy.PAG, Strategy.PAG_COT), own if pag_k is None else pag_k)
        return self.k or defaults.get(self.strategy, own)

    def settings(self, settings: Settings) -> Settings:
        """The settings that the processes run with while this arm is asked."""
        if self.variant is Variant.QUERY:
            settings = settings.changed(strategies={"rpm_retrieval": ExampleRetrieval.QUERY})
        retrieval = settings.retrieval
        if self.retriever:
            retrieval = retrieval.model_copy(update={"retriever": self.retriever, "by_strategy": dict.fromkeys(Strategy, self.retriever)})
        if not self.k:
            return settings.changed(retrieval=retrieval)
        retrieval = retrieval.model_copy(update={"k_max": max(self.k, retrieval.k_max)})
        return settings.changed(retrieval=retrieval, strategies={"k": self.k, "pag_k": None}, reflection={"k": self.k})

    @property
    def group(self) -> tuple[str, ...]:
        """Arms of one group are asked with the same processes."""
        return (f"{self.k or ''}", f"{self.retriever or ''}", f"{self.variant if self.variant is Variant.QUERY else self.reflector}")


#: Strategies whose items no retriever chooses, and those whose number of items has a setting of its own (`hydra.demonstrations`, `strategies.rpm_examples`).
NO_RETRIEVER = {Strategy.ZERO_SHOT, Strategy.ZERO_SHOT_COT, Strategy.ICL}
NO_K = {Strategy.ZERO_SHOT, Strategy.ZERO_SHOT_COT, Strategy.HYDRA, Strategy.RPM}

#: `--strategies all`: every method with its defaults.
ALL = tuple(Arm(strategy) for strategy in Strategy)
#: `--strategies ablations`: RPO without a stage of its training and with other retrievers, RAG with random items, RPM with raw-query retrieval.
#: First those that need no restart, then those that need few.
ABLATIONS = (
    *(Arm(Strategy.RPO, variant=variant) for variant in (Variant.SFT, Variant.RL)),
    Arm(Strategy.RPM, variant=Variant.QUERY),
    Arm(Strategy.RAG, retriever=Retriever.RANDOM),
    *(Arm(Strategy.RPO, retriever=retriever) for retriever in (Retriever.RANDOM, Retriever.RECENT, Retriever.BM25)),
)
#: `--strategies items`: other numbers of items than the defaults, for the picture by number of items.
ITEMS = tuple(Arm(strategy, k) for k in (1, 2, 6) for strategy in (Strategy.RAG, Strategy.RPO))
GROUPS = {"all": ALL, "ablations": ABLATIONS, "items": ITEMS}


_FORM = "STRATEGY[#K][@RETRIEVER][:VARIANT]"


def parse_arms(text: str) -> tuple[Arm, ...]:
    """The arms of `--strategies`: names separated by commas; `all`, `ablations` and `items` stand for several. Raises BadSetting for an unknown one."""
    found: dict[str, Arm] = {}
    for name in filter(None, map(str.strip, text.split(","))):
        for arm in GROUPS.get(name) or (_parse(name),):
            found[arm.name] = arm
    if not found:
        raise BadSetting("--strategies names none; write `all`, or names such as rag,rpo,rpo:sft,rag@random")
    return tuple(found.values())


def grouped(arms: Iterable[Arm]) -> dict[tuple[str, ...], list[Arm]]:
    """The arms by group, in the given order."""
    groups: dict[tuple[str, ...], list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.group, []).append(arm)
    return groups


def _parse(name: str) -> Arm:
    found = _ARM.fullmatch(name)
    if found is None:
        raise BadSetting(f"--strategies: {name!r}: expected {_FORM}, in this order")
    values = {"strategy": set(Strategy), "retriever": {None, *Retriever}, "variant": {None, *Variant}}
    for field, allowed in values.items():
        if found[field] not in allowed:
            listed = ", ".join(sorted(str(each) for each in allowed if each))
            raise BadSetting(f"--strategies: {name!r}: no such {field}; expected {_FORM} with one of {listed}")
    if found["k"] is not None and not _K.fullmatch(found["k"]):
        raise BadSetting(f"--strategies: {name!r}: K is not a number from 1 to 99; expected {_FORM}")
    arm = Arm(
        Strategy(found["strategy"]),
        int(found["k"]) if found["k"] else None,
        Retriever(found["retriever"]) if found["retriever"] else None,
        Variant(found["variant"]) if found["variant"] else None,
    )
    for part, given, without in (("the number of items", arm.k, NO_K), ("the retriever", arm.retriever, NO_RETRIEVER)):
        if given and arm.strategy in without:
            raise BadSetting(f"--strategies: {name!r}: {part} changes nothing for {arm.strategy}")
    if arm.variant and arm.variant not in VARIANTS.get(arm.strategy, ()):
        listed = ", ".join(f"{strategy}:{variant}" for strategy, variants in VARIANTS.items() for variant in variants)
        raise BadSetting(f"--strategies: {name!r}: {arm.strategy} has no such variant; there are {listed}")
    return arm
