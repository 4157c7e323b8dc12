"""Arms: what is compared. An arm is a strategy, with the number of items, the retriever and the version of the reflection model where they are not the default.

Written `STRATEGY[#K][@RETRIEVER][:VERSION]`: `rag`, `rag#2`, `rag@random`, `rpo@bm25`, `rpo:sft`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from infra.errors import BadSetting
from infra.settings import Settings
from infra.settings.stream import Retriever
from schemas.strategies import Strategy

_ARM = re.compile(r"(?P<strategy>[a-z_]+)(?:#(?P<k>[1-9][0-9]?))?(?:@(?P<retriever>[a-z0-9]+))?(?::(?P<version>[a-z]+))?")


class Trained(StrEnum):
    """What a training run makes, each on the same data: a version of the reflection model, or of HYDRA."""

    FULL = "full"  # SFT, then RL
    SFT = "sft"  # without RL
    RL = "rl"  # without SFT
    HYDRA = "hydra"  # the reranker and the scorer; the reflection model stays as it is


@dataclass(frozen=True)
class Arm:
    """One arm. None: the default of the settings. `version` is only for strategies with a reflection model."""

    strategy: Strategy
    k: int | None = None
    retriever: Retriever | None = None
    version: Trained | None = None

    @property
    def name(self) -> str:
        k, retriever, version = (f"#{self.k}" if self.k else ""), (f"@{self.retriever}" if self.retriever else ""), (f":{self.version}" if self.version else "")
        return f"{self.strategy}{k}{retriever}{version}"

    @property
    def trained(self) -> Trained | None:
        """The training run whose version answers; None for strategies that train nothing."""
        if self.strategy is Strategy.HYDRA:
            return Trained.HYDRA
        return (self.version or Trained.FULL) if self.strategy is Strategy.RPO else None

    @property
    def reflector(self) -> Trained:
        """The version of the reflection model that serves while this arm is asked. Other strategies do not depend on it."""
        return self.version or Trained.FULL

    @property
    def needs_profile(self) -> bool:
        """Whether the strategy reads what the profiles worker writes about the user."""
        return self.strategy in (Strategy.PAG, Strategy.PAG_COT, Strategy.RPM)

    def settings(self, settings: Settings) -> Settings:
        """The settings that the processes run with while this arm is asked."""
        retrieval = settings.retrieval
        if self.retriever:
            retrieval = retrieval.model_copy(update={"retriever": self.retriever, "by_strategy": {}})
        if not self.k:
            return settings.changed(retrieval=retrieval)
        retrieval = retrieval.model_copy(update={"k_max": max(self.k, retrieval.k_max)})
        return settings.changed(retrieval=retrieval, strategies={"k": self.k}, reflection={"k": self.k})

    @property
    def group(self) -> tuple[str, ...]:
        """Arms of one group are asked with the same processes."""
        return (f"{self.k or ''}", f"{self.retriever or ''}", f"{self.reflector}")


#: `--strategies all`: every method with its defaults.
ALL = tuple(Arm(strategy) for strategy in Strategy)
#: `--strategies ablations`: RPO without a stage of its training, and with other retrievers.
ABLATIONS = (
    *(Arm(Strategy.RPO, version=version) for version in (Trained.SFT, Trained.RL)),
    *(Arm(Strategy.RPO, retriever=retriever) for retriever in (Retriever.RANDOM, Retriever.RECENT, Retriever.BM25)),
    Arm(Strategy.RAG, retriever=Retriever.RANDOM),
)


def parse_arms(text: str) -> tuple[Arm, ...]:
    """The arms of `--strategies`: names separated by commas; `all` and `ablations` stand for several. Raises BadSetting for an unknown one."""
    found: dict[str, Arm] = {}
    for name in filter(None, map(str.strip, text.split(","))):
        for arm in {"all": ALL, "ablations": ABLATIONS}.get(name) or (_parse(name),):
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
    versions = {None, Trained.FULL, Trained.SFT, Trained.RL}
    values = {"strategy": set(Strategy), "retriever": {None, *Retriever}, "version": versions}
    for field, allowed in values.items():
        value = found[field] if found else name
        if value not in allowed:
            listed = ", ".join(sorted(str(each) for each in allowed if each))
            raise BadSetting(f"--strategies: {name!r}: no such {field}; expected STRATEGY[#K][@RETRIEVER][:VERSION] with one of {listed}")
    assert found
    arm = Arm(
        Strategy(found["strategy"]),
        int(found["k"]) if found["k"] else None,
        Retriever(found["retriever"]) if found["retriever"] else None,
        Trained(found["version"]) if found["version"] else None,
    )
    if arm.version and arm.strategy is not Strategy.RPO:
        raise BadSetting(f"--strategies: {name!r}: only {Strategy.RPO} has versions")
    return arm
