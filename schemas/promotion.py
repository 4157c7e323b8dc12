"""States of a version during promotion, and transitions between them as the registry stores them.

A version's history of transitions defines its state. One transition is one tag, written in one call, so it is written entirely or not at all. Aliases,
events and views are derived from the histories. One process writes them (`trainer.promotion`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from schemas.messages import AwareDatetime, Record

Share = Annotated[float, Field(ge=0, le=1)]
#: Maximum length of a reason, so that a transition fits into one tag.
REASON_CHARS = 2_000


class VersionState(StrEnum):
    """State of a version. A version without transitions is registered."""

    REGISTERED = "registered"  # in the registry, not judged yet
    GATED = "gated"  # significantly better than the champion offline, and it passed all probes
    SHADOW = "shadow"  # its answers are scored and never shown
    CANARY = "canary"  # answers a fixed share of the users
    APPROVAL = "approval"  # passed all stages; keeps its share until a person decides
    CHAMPION = "champion"  # answers all users
    RETIRED = "retired"  # former champion, may serve again
    REJECTED = "rejected"  # worse, harmful, unsound, rolled back, or rejected by an operator; final
    INCONCLUSIVE = "inconclusive"  # neither better nor worse within its bounds; not a failure


#: Allowed transitions. An operator may promote a gated version past the other stages, and a retired one again; no version serves without a gate. If the
#: champion changes, versions that were compared with the former one are registered again, and judged against the new one.
TRANSITIONS: Mapping[VersionState, frozenset[VersionState]] = {
    VersionState.REGISTERED: frozenset({VersionState.GATED, VersionState.REJECTED, VersionState.INCONCLUSIVE}),
    VersionState.GATED: frozenset(
        {VersionState.REGISTERED, VersionState.SHADOW, VersionState.CANARY, VersionState.APPROVAL, VersionState.CHAMPION, VersionState.REJECTED}
    ),
    VersionState.SHADOW: frozenset(
        {VersionState.REGISTERED, VersionState.CANARY, VersionState.APPROVAL, VersionState.CHAMPION, VersionState.REJECTED, VersionState.INCONCLUSIVE}
    ),
    VersionState.CANARY: frozenset({VersionState.REGISTERED, VersionState.APPROVAL, VersionState.CHAMPION, VersionState.REJECTED, VersionState.INCONCLUSIVE}),
    VersionState.APPROVAL: frozenset({VersionState.REGISTERED, VersionState.CHAMPION, VersionState.REJECTED}),
    VersionState.CHAMPION: frozenset({VersionState.RETIRED, VersionState.REJECTED}),
    VersionState.RETIRED: frozenset({VersionState.CHAMPION, VersionState.REJECTED}),
    VersionState.REJECTED: frozenset(),
    VersionState.INCONCLUSIVE: frozenset({VersionState.REJECTED}),
}
#: States of the challenger, which reflection workers hold in memory beside the champion.
CHALLENGING = frozenset({VersionState.SHADOW, VersionState.CANARY, VersionState.APPROVAL})


class CanaryPrompt(Record):
    """The tokens that a version generates greedily after a fixed prompt. A worker that loads the version must generate the same ones.

    The prompt is made up. The tokens end before the first one with a small lead, so that another order of additions cannot change them.
    """

    prompt: str  # the user turn; the checkpoint's chat template goes around it
    token_ids: tuple[int, ...]


class Transition(Record):
    """One transition of one version, as the tag `promotion.<seq>` holds it. Holds figures and ids, never a user's text.

    A transition to champion names the former champion in `replaces`, and thereby retires it, or rejects it if `rolls_back`. One write changes both, so
    there are never two champions or none.
    """

    seq: Annotated[int, Field(ge=1)]  # number within the version's history, from 1 without gaps
    before: VersionState
    after: VersionState
    at: AwareDatetime
    actor: Annotated[str, Field(min_length=1, max_length=64)]  # `promoter`, or the operator's name
    reason: Annotated[str, Field(max_length=REASON_CHARS)]  # in words, for people
    experiment: UUID | None = None  # shadow, canary and approval: the id that answers and figures of this stage carry
    share: Share = 0.0  # of users; in shadow of questions
    replaces: str | None = None  # the former champion
    rolls_back: bool = False  # the former champion is rejected
    canary_prompts: tuple[CanaryPrompt, ...] = ()  # from the gate; workers check the version with them after loading it
    evidence: Mapping[str, Any] = Field(default_factory=dict)  # the figures behind the transition
