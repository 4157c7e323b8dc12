"""Promotion: the states a version goes through on its way to the champion, and the record that each step leaves in the registry.

A version's log of transitions is the truth about its state: one transition is one tag, written in one call, so a step is taken or not taken. The
aliases, the events and the pages follow from the logs and can be made again from them. One process writes the logs (`trainer.promotion`).
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
    """Where a version stands. A version without transitions is registered."""

    REGISTERED = "registered"  # in the registry, judged by nobody
    GATED = "gated"  # significantly better than the champion offline, no probe found anything
    SHADOW = "shadow"  # answers beside the champion, is scored and never shown
    CANARY = "canary"  # answers a fixed share of the users
    APPROVAL = "approval"  # passed everything; serves its share until a person decides
    CHAMPION = "champion"  # answers everybody
    RETIRED = "retired"  # was champion until a better one came
    REJECTED = "rejected"  # worse, harmful, unsound, rolled back, or turned down by a person: never again by itself
    INCONCLUSIVE = "inconclusive"  # neither better nor worse within its bounds: an answer, not a failure


#: What may follow what. A person may promote a gated version past the rest, and bring a retired one back; nobody serves who was not gated. Who was
#: compared with a champion that gave way meanwhile is registered again, and judged against the new one.
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
#: The states in which `challenger` names a version, and reflection workers hold it beside the champion.
CHALLENGING = frozenset({VersionState.SHADOW, VersionState.CANARY, VersionState.APPROVAL})


class CanaryPrompt(Record):
    """What a version greedily writes after a fixed prompt: a worker that loaded it must write the same, or its weights are not in place as they should be.

    The prompt is made up and nobody's. The tokens end before the first one that was a close call, so that another order of additions cannot change them.
    """

    prompt: str  # the user turn; the checkpoint's chat template goes around it
    token_ids: tuple[int, ...]


class Transition(Record):
    """One step of one version, as the tag `promotion.<seq>` holds it. Holds figures and ids, never a user's text.

    The version that becomes champion names in `replaces` the one it takes over from, which is thereby retired, or rejected where `rolls_back`: one
    write changes both, so at no moment are there two champions or none.
    """

    seq: Annotated[int, Field(ge=1)]  # of this version, from 1 without gaps
    before: VersionState
    after: VersionState
    at: AwareDatetime
    actor: Annotated[str, Field(min_length=1, max_length=64)]  # `promoter`, or the operator's name
    reason: Annotated[str, Field(max_length=REASON_CHARS)]  # in words, for people
    experiment: UUID | None = None  # of shadow, canary and approval: what answers and figures of this stage are stamped with
    share: Share = 0.0  # of users whom the version answers; in shadow of questions it answers unseen
    replaces: str | None = None  # the champion before
    rolls_back: bool = False  # the champion before is given up for good
    canary_prompts: tuple[CanaryPrompt, ...] = ()  # of the gate: how workers check the version after loading it
    evidence: Mapping[str, Any] = Field(default_factory=dict)  # the figures that the step rests on
