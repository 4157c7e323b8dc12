from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import pytest

from infra.settings.models import ReflectionSettings
from infra.settings.rewrite_limits import RewriteLimits
from infra.telemetry.metrics import REWRITES_WITHOUT_FORMAT, STRATEGY_FALLBACKS
from schemas.contexts import Context, HistoryItem
from schemas.domain_entries import DomainEntry
from schemas.domains import BUILT_IN_DOMAINS, Domains
from schemas.drafts import Draft, DraftStatus, Usage
from schemas.envelope import envelope_headers, read_envelope
from schemas.experiments import Arm, Assignment, arm_of, is_shadowed
from schemas.ids import NAMESPACE, derive
from schemas.positions import Source
from schemas.promotion import VersionState
from schemas.prompts import COMPACT, template_digest
from schemas.queries import Query
from schemas.responses import ModelVersion, Response, ResponseStatus
from schemas.strategies import Strategy
from schemas.topics import RESPONSES
from streams.quality.measures import is_measured
from tests.support.manual_clock import ManualClock
from tests.support.stub_engine import StubEngine
from tests.support.token_limits import limits
from workers.reflection.reflector import Reflector, accepted
from workers.reflection.shadow_queue import ShadowRequest
from workers.runtime.handler import DegradeReason, Incoming
from workers.serving.engines.engine import EngineDied, FinishReason, GenerationFailed, GenerationResult, NotLoaded, SamplingParameters
from workers.serving.routes import ChallengerRoute, Routes

NOW = datetime(2026, 11, 20, tzinfo=UTC)
LIMITS = limits(1952, 96)
MODEL = ModelVersion(name="m", version="3", digest="d")
GOOD = "<think>they like comedies</think><personalized>comedy</personalized>"


class AnsweringEngine(StubEngine):
    """Returns one text or raises one error after `takes_s`. A prompt has as many tokens as lines."""

    def __init__(self, answer: str | Exception = GOOD, takes_s: float = 0.0, loaded: tuple[ModelVersion, ...] = (MODEL,)) -> None:
        super().__init__(loaded[0])
        self.loaded = loaded
        self.answer, self.takes_s = answer, takes_s
        self.prompts: list[str] = []
        self.limits: list[int] = []

    async def generate(self, prompt: str, sampling: SamplingParameters, version: str | None = None) -> GenerationResult:
        model = next((model for model in self.loaded if model.version == version), None) if version else self.champion
        if model is None:
            raise NotLoaded(version)
        self.prompts.append(prompt)
        self.limits.append(sampling.max_new_tokens)
        await asyncio.sleep(self.takes_s)
        if isinstance(self.answer, Exception):
            raise self.answer
        return GenerationResult(self.answer, 1, 1, FinishReason.STOP, model)

    def count_tokens(self, prompt: str) -> int:
        return len(prompt.splitlines())


def reflector(settings: ReflectionSettings, engine: AnsweringEngine, clock: ManualClock | None = None, routes: Routes | None = None) -> Reflector:
    return Reflector(settings, COMPACT, limits_of(settings), engine, lambda: routes or Routes(MODEL), clock or ManualClock(NOW))


def limits_of(settings: ReflectionSettings, domains: Domains = BUILT_IN_DOMAINS) -> RewriteLimits:
    return RewriteLimits(settings.max_model_len, settings.max_new_tokens, settings.max_new_tokens // 2, domains)


def item(number: int, response: str = "comedy") -> HistoryItem:
    source = Source(topic="interactions", partition=0, offset=number)
    return HistoryItem(interaction_id=item_id(number), content=f"film {number}", response=response, occurred_at=NOW, score=0.5, source=source)


def item_id(number: int) -> UUID:
    return uuid5(NAMESPACE, str(number))


def context(
    *,
    items: int = 6,
    options: tuple[str, ...] = ("comedy", "action"),
    deadline_s: float | None = None,
    strategy: Strategy | None = None,
    status: DraftStatus = DraftStatus.DRAFTED,
    response: str = "comedy",
) -> Context:
    deadline = None if deadline_s is None else NOW + timedelta(seconds=deadline_s)
    query = Query(
        query_id=uuid5(NAMESPACE, "q"), tenant="t", user="u", domain="tag", text="a film", options=options, asked_at=NOW, deadline=deadline, strategy=strategy
    )
    answer = "action" if status is DraftStatus.DRAFTED else ""
    draft = Draft(query=query, answer=answer, base_model="base", status=status, base_ms=5)
    return Context(draft=draft, items=tuple(item(number, response) for number in range(items)), k_max=6, retrieve_ms=2)


async def respond(engine: AnsweringEngine, context: Context, **settings: object) -> Response:
    reflection = ReflectionSettings.model_validate({"k": 4, "max_model_len": 100, "max_new_tokens": 10} | settings)
    return await reflector(reflection, engine).respond(context)


async def test_a_response_has_the_full_provenance_of_its_rewrite() -> None:
    response = await respond(AnsweringEngine(), context())
    provenance = response.provenance
    assert (response.answer, response.reasoning, response.status) == ("comedy", "they like comedies", ResponseStatus.PERSONALIZED)
    assert (provenance.model, provenance.base_model, provenance.strategy, provenance.k) == (MODEL, "base", Strategy.RPO, 4)
    assert provenance.history_ids == tuple(map(item_id, range(4)))
    assert provenance.prompt_digest == template_digest(COMPACT)
    assert (provenance.base_ms, provenance.retrieve_ms) == (5, 2)
    assert (provenance.answered_by, provenance.reflect_usage) == (None, Usage(prompt_tokens=1, completion_tokens=1))


@pytest.mark.parametrize(("own", "limit", "shown"), [(None, 10, 3), (7, 12, 1), (2, 7, 4)])
async def test_a_rewrite_is_limited_by_the_tokens_of_its_domain(own: int | None, limit: int, shown: int) -> None:
    """Five tokens of the ten are for the answer. The prompt, of three lines without items, gets what a rewrite leaves."""
    settings, engine = ReflectionSettings(k=4, max_model_len=16, max_new_tokens=10), AnsweringEngine()
    tokens = limits_of(settings, Domains({"tag": DomainEntry(max_new_tokens=own)}))
    response = await Reflector(settings, COMPACT, tokens, engine, lambda: Routes(MODEL), ManualClock(NOW)).respond(context())
    assert (response.status, engine.limits, response.provenance.k) == (ResponseStatus.PERSONALIZED, [limit], shown)


def incoming(context: Context) -> Incoming[Context]:
    return Incoming(context, read_envelope(envelope_headers(context, id="c", source="/tests")), Source(topic="contexts", partition=0, offset=0))


async def test_a_rewrite_cancelled_by_the_runtime_counts_as_a_slow_answer_of_the_model() -> None:
    record, slow_reflector = incoming(context()), reflector(ReflectionSettings(k=4), AnsweringEngine(takes_s=60))
    for tried in (True, False):  # a cancelled rewrite counts once
        if tried:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await slow_reflector(record)
        (outgoing,) = slow_reflector.degraded(record, DegradeReason.EXPIRED)
        assert isinstance(outgoing.message, Response)
        assert (outgoing.message.status, outgoing.message.provenance.k) == (ResponseStatus.DEADLINE_NEAR, 4 if tried else 0)
        assert is_measured(outgoing.message) is tried


async def test_a_cancelled_rewrite_of_another_users_query_with_the_same_id_counts_apart() -> None:
    mine, slow_reflector = context(), reflector(ReflectionSettings(k=4), AnsweringEngine(takes_s=60))
    theirs = mine.model_copy(update={"draft": mine.draft.model_copy(update={"query": mine.draft.query.model_copy(update={"user": "v"})})})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await slow_reflector(incoming(mine))
    for asked, shown in ((theirs, ()), (mine, tuple(map(item_id, range(4))))):
        (outgoing,) = slow_reflector.degraded(incoming(asked), DegradeReason.EXPIRED)
        assert isinstance(outgoing.message, Response) and outgoing.message.provenance.history_ids == shown


async def test_the_response_id_is_derived_from_the_query_id() -> None:
    asked = context()
    (outgoing,) = await reflector(ReflectionSettings(), AnsweringEngine())(incoming(asked))
    assert (outgoing.topic, outgoing.id) == (RESPONSES, derive("response", asked.draft.query.query_id))


FALLBACKS: dict[str, tuple[Context, str | Exception, ResponseStatus]] = {
    "the query asks for the base answer": (context(strategy=Strategy.ZERO_SHOT), GOOD, ResponseStatus.ZERO_SHOT),
    "no base answer": (context(status=DraftStatus.BASE_FAILED), GOOD, ResponseStatus.BASE_FAILED),
    "no history": (context(items=0), GOOD, ResponseStatus.NO_HISTORY),
    "only items without a response": (context(response=" \u200b"), GOOD, ResponseStatus.NO_HISTORY),
    "the deadline is near": (context(deadline_s=0.4), GOOD, ResponseStatus.DEADLINE_NEAR),
    "the output does not parse": (context(), "comedy", ResponseStatus.UNPARSABLE),
    "the answer is no option": (context(), "<think>x</think><personalized>drama</personalized>", ResponseStatus.UNPARSABLE),
    "the engine refuses": (context(), GenerationFailed("no"), ResponseStatus.REFLECTION_FAILED),
    "the engine has a bug": (context(), KeyError("x"), ResponseStatus.REFLECTION_FAILED),
}


@pytest.mark.parametrize("why", FALLBACKS)
async def test_the_base_answer_goes_out_with_its_reason(why: str) -> None:
    asked, answer, status = FALLBACKS[why]
    response = await respond(AnsweringEngine(answer), asked)
    assert (response.status, response.answer, response.reasoning) == (status, asked.draft.answer, "")
    assert (response.provenance.model is not None) == (status is ResponseStatus.UNPARSABLE)
    no_fallback = status in (ResponseStatus.ZERO_SHOT, ResponseStatus.BASE_FAILED)
    assert response.provenance.answered_by == (None if no_fallback else Strategy.ZERO_SHOT)


async def test_items_without_a_response_are_not_shown_and_take_no_place() -> None:
    asked, engine = context(items=6), AnsweringEngine()
    mixed = tuple(item(number, "" if number < 3 else "comedy") for number in range(6))
    response = await respond(engine, asked.model_copy(update={"items": mixed}), k=3)
    assert response.provenance.history_ids == tuple(map(item_id, range(3, 6)))
    assert [f"film {number}" in engine.prompts[0] for number in range(6)] == [False] * 3 + [True] * 3


async def test_a_base_answer_for_want_of_responses_is_counted_as_a_fallback() -> None:
    def counted() -> float:
        expected = {"strategy": "rpo", "answered_by": "zero_shot", "status": "no_history"}
        return sum(value for labels, value in STRATEGY_FALLBACKS.values().items() if dict(labels) == expected)

    before = counted()
    await reflector(ReflectionSettings(), AnsweringEngine())(incoming(context(response="")))
    assert counted() == before + 1


@pytest.mark.parametrize("completion", ["<personalized>comedy</personalized>", f"<think>a</think>{GOOD}"])
async def test_a_readable_body_is_used_without_the_format_and_counted(completion: str) -> None:
    before = REWRITES_WITHOUT_FORMAT.values().get((), 0)
    response = await respond(AnsweringEngine(completion), context())
    assert (response.answer, response.status) == ("comedy", ResponseStatus.PERSONALIZED)
    assert REWRITES_WITHOUT_FORMAT.values()[()] == before + 1
    await respond(AnsweringEngine(), context())
    assert REWRITES_WITHOUT_FORMAT.values()[()] == before + 1


async def test_a_slow_engine_is_cut_off_by_the_timeout() -> None:
    assert (await respond(AnsweringEngine(takes_s=5), context(), timeout_s=0.01)).status is ResponseStatus.REFLECTION_FAILED


async def test_a_deadline_during_the_rewrite_sends_the_base_answer() -> None:
    clock = ManualClock(NOW)
    slow_reflector = reflector(ReflectionSettings(), AnsweringEngine(takes_s=5), clock)
    responding = asyncio.create_task(slow_reflector.respond(context(deadline_s=0.55)))  # with a reserve of 0.5 s
    await asyncio.sleep(0)
    await clock.advance(0.05)
    assert (await responding).status is ResponseStatus.DEADLINE_NEAR


def degraded(context: Context, why: DegradeReason) -> Response:
    (outgoing,) = reflector(ReflectionSettings(), AnsweringEngine()).degraded(incoming(context), why)
    assert isinstance(outgoing.message, Response)
    assert (outgoing.topic, outgoing.id) == (RESPONSES, derive("response", context.draft.query.query_id))
    return outgoing.message


DEGRADED: dict[str, tuple[Context, str, ResponseStatus]] = {
    "there is a base answer": (context(deadline_s=-1), "action", ResponseStatus.DEADLINE_NEAR),
    "the query asks for the base answer": (context(deadline_s=-1, strategy=Strategy.ZERO_SHOT), "action", ResponseStatus.ZERO_SHOT),
    "the base model failed": (context(deadline_s=-1, status=DraftStatus.BASE_FAILED), "", ResponseStatus.BASE_FAILED),
    "the base answer was late": (context(deadline_s=-1, status=DraftStatus.EXPIRED), "", ResponseStatus.EXPIRED),
}


@pytest.mark.parametrize("when", DEGRADED)
def test_past_the_deadline_the_base_answer_goes_out_or_an_empty_response(when: str) -> None:
    asked, answer, status = DEGRADED[when]
    response = degraded(asked, DegradeReason.EXPIRED)
    assert (response.status, response.answer, response.reasoning) == (status, answer, "")
    assert response.provenance.model is None


@pytest.mark.parametrize(("deadline_s", "reserve_s", "due_s"), [(None, 0.5, None), (10.0, 0.5, 9.5), (10.0, 0.0, 10.0)])
def test_the_handlers_deadline_is_the_querys_minus_the_reserve(deadline_s: float | None, reserve_s: float, due_s: float | None) -> None:
    due = reflector(ReflectionSettings(deadline_reserve_s=reserve_s), AnsweringEngine()).deadline(context(deadline_s=deadline_s))
    assert due == (None if due_s is None else NOW + timedelta(seconds=due_s))


@pytest.mark.parametrize(("end", "status"), [(datetime.min, ResponseStatus.DEADLINE_NEAR), (datetime.max, ResponseStatus.PERSONALIZED)])
async def test_the_earliest_and_the_latest_possible_deadline_work(end: datetime, status: ResponseStatus) -> None:
    asked = context()
    query = asked.draft.query.model_copy(update={"deadline": end.replace(tzinfo=UTC)})
    asked = asked.model_copy(update={"draft": asked.draft.model_copy(update={"query": query})})
    due = reflector(ReflectionSettings(), AnsweringEngine()).deadline(asked)
    assert due is not None and due.year == end.year
    assert (await respond(AnsweringEngine(), asked)).status is status


async def test_a_dead_engine_stops_the_process() -> None:
    with pytest.raises(EngineDied):
        await respond(AnsweringEngine(EngineDied("gone")), context())


@pytest.mark.parametrize(("max_prompt_tokens", "shown"), [(7, 4), (6, 3), (4, 1)])
async def test_the_weakest_items_are_left_out_until_the_prompt_fits(max_prompt_tokens: int, shown: int) -> None:
    engine = AnsweringEngine()  # three lines beside the items
    response = await respond(engine, context(), max_model_len=max_prompt_tokens + 10)
    assert response.provenance.history_ids == tuple(map(item_id, range(shown)))
    assert engine.prompts[0].splitlines()[1] == f"film {shown - 1} => comedy"


async def test_without_space_for_one_item_the_base_answer_goes_out() -> None:
    engine = AnsweringEngine()
    response = await respond(engine, context(), max_model_len=13)
    assert (response.status, response.answer, engine.prompts) == (ResponseStatus.PROMPT_TOO_LONG, "action", [])


@pytest.mark.parametrize(
    ("options", "body", "answer"),
    [
        (("Comedy", "action"), "comedy", "Comedy"),
        (("Polish", "polish"), "Polish", "Polish"),
        (("Polish", "polish"), "POLISH", None),
        ((), "Any words.", "Any words."),
        (("1", "2"), "3", None),
    ],
)
def test_a_query_with_options_accepts_only_an_option(options: tuple[str, ...], body: str, answer: str | None) -> None:
    rewrite = accepted(context(options=options).draft.query, f"<think>x</think><personalized>{body}</personalized>")
    assert (rewrite.answer if rewrite else None) == answer


OTHER = ModelVersion(name="m", version="4", digest="e")
EXPERIMENT = derive("experiment", "4")


def routes_in(stage: VersionState, share: float = 0.3) -> Routes:
    return Routes(MODEL, ChallengerRoute(OTHER, stage, EXPERIMENT, share))


CANARY = routes_in(VersionState.CANARY)


def asked_by(user: str) -> Context:
    asked = context()
    query = asked.draft.query.model_copy(update={"user": user, "query_id": uuid5(NAMESPACE, user)})
    return asked.model_copy(update={"draft": asked.draft.model_copy(update={"query": query})})


def user_in(arm: Arm) -> str:
    return next(user for user in map(str, range(100)) if arm_of(EXPERIMENT, 0.3, "t", user) is arm)


@pytest.mark.parametrize(("arm", "version"), [(Arm.CANARY, "4"), (Arm.BASELINE, "3"), (Arm.CHAMPION, "3")])
@pytest.mark.parametrize("stage", [VersionState.CANARY, VersionState.APPROVAL])
async def test_in_a_canary_the_version_of_the_users_arm_answers(arm: Arm, version: str, stage: VersionState) -> None:
    response = await reflector(ReflectionSettings(), AnsweringEngine(loaded=(MODEL, OTHER)), routes=routes_in(stage)).respond(asked_by(user_in(arm)))
    assert response.provenance.assignment == Assignment(experiment=EXPERIMENT, arm=arm, version=version)
    assert response.provenance.model and response.provenance.model.version == version


async def test_a_fallback_keeps_its_assignment() -> None:
    response = await reflector(ReflectionSettings(), AnsweringEngine(GenerationFailed("no"), loaded=(MODEL, OTHER)), routes=CANARY).respond(
        asked_by(user_in(Arm.CANARY))
    )
    assert (response.status, response.provenance.model) == (ResponseStatus.REFLECTION_FAILED, None)
    assert response.provenance.assignment == Assignment(experiment=EXPERIMENT, arm=Arm.CANARY, version="4")


@pytest.mark.parametrize("arm", [Arm.BASELINE, Arm.CANARY])
@pytest.mark.parametrize(("before", "after"), [(Routes(MODEL), CANARY), (CANARY, Routes(OTHER))], ids=["a canary starts", "a canary wins"])
async def test_a_cancelled_rewrite_keeps_the_assignment_it_started_with(arm: Arm, before: Routes, after: Routes) -> None:
    record, routes = incoming(asked_by(user_in(arm))), [before]
    slow_reflector = Reflector(ReflectionSettings(), COMPACT, LIMITS, AnsweringEngine(takes_s=60, loaded=(MODEL, OTHER)), lambda: routes[0], ManualClock(NOW))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await slow_reflector(record)
    routes[0] = after
    (outgoing,) = slow_reflector.degraded(record, DegradeReason.EXPIRED)
    assert isinstance(outgoing.message, Response)
    assert outgoing.message.provenance.assignment == before.assignment(record.message.draft.query)


@pytest.mark.parametrize("routes", [Routes(MODEL), CANARY], ids=["no experiment", "the challenger was just evicted"])
async def test_an_answer_outside_every_experiment_is_the_champions(routes: Routes) -> None:
    response = await reflector(ReflectionSettings(), AnsweringEngine(), routes=routes).respond(asked_by(user_in(Arm.CANARY)))
    assert response.provenance.assignment == Assignment(experiment=None, arm=Arm.CHAMPION, version="3")
    assert response.status is ResponseStatus.PERSONALIZED


async def test_an_answer_of_a_newer_champion_counts_in_no_experiment() -> None:
    response = await reflector(ReflectionSettings(), AnsweringEngine(loaded=(OTHER,)), routes=CANARY).respond(asked_by(user_in(Arm.BASELINE)))
    assert response.provenance.assignment == Assignment(experiment=None, arm=Arm.CHAMPION, version="4")


async def test_shadowed_queries_are_requested_after_their_response() -> None:
    requests: list[ShadowRequest] = []
    routes = routes_in(VersionState.SHADOW)
    engine = AnsweringEngine(loaded=(MODEL, OTHER))
    shadowing = Reflector(ReflectionSettings(), COMPACT, LIMITS, engine, lambda: routes, ManualClock(NOW), requests.append)
    contexts = [asked_by(str(number)) for number in range(40)]
    for query_context in contexts:
        (outgoing,) = await shadowing(incoming(query_context))
        assert isinstance(outgoing.message, Response)
        assert outgoing.message.provenance.assignment == Assignment(experiment=EXPERIMENT, arm=Arm.CHAMPION, version="3")
    shadowed = [query_context for query_context in contexts if is_shadowed(EXPERIMENT, 0.3, query_context.draft.query.query_id)]
    assert 0 < len(shadowed) < len(contexts)
    assert [request.context for request in requests] == shadowed
    shadow = await shadowing.shadow_answer(requests[0])
    assert shadow and (shadow.model, shadow.assignment.arm, shadow.answer) == (OTHER, Arm.SHADOW, "comedy")
    assert shadow.shadow_id == derive("shadow", EXPERIMENT, shadow.query_id)
    assert engine.prompts[-1] in engine.prompts[:-1], "the challenger gets the champion's prompt"


async def test_a_query_without_history_gets_no_shadow_answer() -> None:
    requests: list[ShadowRequest] = []
    routes = routes_in(VersionState.SHADOW, share=1.0)
    await Reflector(ReflectionSettings(), COMPACT, LIMITS, AnsweringEngine(), lambda: routes, ManualClock(NOW), requests.append)(incoming(context(items=0)))
    assert not requests


async def test_an_evicted_challenger_gives_no_shadow_answer() -> None:
    request = ShadowRequest(context(), (item(0),), Assignment(experiment=EXPERIMENT, arm=Arm.SHADOW, version="4"))
    assert await reflector(ReflectionSettings(), AnsweringEngine()).shadow_answer(request) is None
