"""Simulates one seed: the worker runtime on the in-memory broker, in virtual time, with faults at every step between poll and commit."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from infra.errors import PoisonMessage, RetryLater
from infra.settings import Settings
from infra.settings.stream import DeliveryMode, KeyOrder
from lab.simulate.checker import anomalies
from lab.simulate.process import ProcessRun, SupervisedProcess
from lab.simulate.scenario import SimulatedOutcome, SimulatedQuestion, SimulationScenario, draw_scenario
from lab.simulate.virtual_time import EPOCH, run_in_virtual_time
from schemas.dead_letters import original_position
from schemas.drafts import Draft
from schemas.envelope import envelope_headers, header_values, read_message
from schemas.ids import derive
from schemas.messages import Malformed
from schemas.queries import Query
from schemas.topics import Topic, dead_letter_topic
from workers.runtime.handler import Backoff, DegradeReason, HandlerSpec, Incoming, Outgoing
from workers.runtime.memory.log import MemoryCluster
from workers.runtime.memory.transactions import MemoryBrokerClient
from workers.runtime.worker import Worker

QUESTIONS = Topic("questions", Query, "tenant/user", "simulation", "simulation")
ANSWERS = Topic("answers", Draft, "tenant/user", "simulation", "simulation")
#: Bound for all answers after the last fault, in virtual seconds. The longest retries take 20 s.
HEALED_WITHIN_S = 90.0


@dataclass(frozen=True)
class SimulationResult:
    """`digest` is computed over the whole trace. The same seed gives the same digest."""

    seed: int
    anomalies: Sequence[str]
    digest: str
    steps: int
    starts: int
    virtual_s: float
    trace: Sequence[str]


def simulate(seed: int) -> SimulationResult:
    """Raises Stuck if the simulation hangs or loops without end."""
    runtime = logging.getLogger("workers.runtime")
    before = runtime.level
    runtime.setLevel(logging.CRITICAL)  # thousands of intended faults
    try:
        return run_in_virtual_time(Simulation(draw_scenario(seed)).run())
    finally:
        runtime.setLevel(before)


class Simulation:
    def __init__(self, scenario: SimulationScenario) -> None:
        self._scenario = scenario
        self._rng = random.Random(scenario.seed + 1)  # noqa: S311  # a simulation, no secret
        self._trace: list[str] = []
        self._outage_until = 0.0
        self._is_calm = False
        self._sent = 0
        self._tries: dict[int, int] = {}
        self._asked: list[SimulatedQuestion] = []
        self._by_id = {derive("question", scenario.seed, q.number): q for q in scenario.questions}
        self._supervised: list[SupervisedProcess] = []
        self._process_runs: list[ProcessRun] = []
        workers = {
            "delivery": DeliveryMode.EXACTLY_ONCE if scenario.exactly_once else DeliveryMode.AT_LEAST_ONCE,
            "order": KeyOrder.KEY if scenario.ordered else KeyOrder.NONE,
            "commit_every_ms": scenario.commit_every_ms,
            "metadata_bytes": scenario.metadata_bytes,
        }
        self._settings = Settings.model_validate({"workers": workers})

    async def run(self) -> SimulationResult:
        scenario = self._scenario
        names = (QUESTIONS.name, ANSWERS.name, dead_letter_topic(QUESTIONS.name))
        self._cluster = MemoryCluster(
            dict.fromkeys(names, scenario.partitions), session_timeout_s=scenario.session_timeout_s, metadata_bytes=scenario.metadata_bytes
        )
        running = [self._start(f"w{number}") for number in range(scenario.workers)]
        background = [asyncio.ensure_future(work) for work in (self._ask(), self._outages(), self._moves(running))]
        await asyncio.sleep(scenario.faults_until_s)
        self._heal()
        await asyncio.gather(*background)
        for supervised in self._supervised:  # processes that started during the healing
            if supervised.process_run:
                supervised.process_run.is_calm = True
        await self._answered()
        for each in self._supervised:
            each.request_stop()
        await asyncio.gather(*running)
        return self._result()

    def _start(self, name: str) -> asyncio.Future[None]:
        rng = random.Random(f"{self._scenario.seed}/{name}")  # noqa: S311  # a simulation, no secret
        supervised = SupervisedProcess(name, lambda process_run: self._worker(name, process_run, rng), lambda: self._process_run(name, rng), rng, self._note)
        self._supervised.append(supervised)
        return asyncio.ensure_future(supervised.run())

    def _process_run(self, name: str, rng: random.Random) -> ProcessRun:
        process_run = ProcessRun(name, self._scenario, rng, self._note, lambda: self._outage_until - asyncio.get_running_loop().time())
        process_run.is_calm = self._is_calm
        self._process_runs.append(process_run)
        return process_run

    def _worker(self, name: str, process_run: ProcessRun, rng: random.Random) -> Worker[Query]:
        backoff = Backoff(attempts=3, first_s=0.1, longest_s=2.0)
        spec = HandlerSpec("simulated", QUESTIONS, lambda incoming: self._handle(incoming, process_run), lambda query: query.deadline, self._degraded, backoff)
        broker = MemoryBrokerClient(self._cluster, name, process_run)
        return Worker(self._settings, spec, concurrency=self._scenario.concurrency, broker=broker, clock=process_run, rng=rng)

    # Load and faults

    async def _ask(self) -> None:
        """Questions in the order of their times. Some are repeated, and the id of some is used again with another text."""
        order = sorted(self._scenario.questions, key=lambda q: q.at_s)
        sent = [(q.at_s, q, "x") for q in order]
        sent += [(q.at_s + 0.7 * (again + 1), q, "x") for q in order for again in range(q.repeats)]
        sent += [(q.at_s + 0.9 * (again + 1), q, f"other {again}") for q in order for again in range(q.conflicts)]
        for at_s, question, text in sorted(sent, key=lambda each: (each[0], each[1].number)):
            await asyncio.sleep(max(0.0, at_s - asyncio.get_running_loop().time()))
            self._append(question, text)

    def _append(self, question: SimulatedQuestion, text: str) -> None:
        """Appends a record whose `ce_id` does not identify it: different questions share a `ce_id`, and a repeat has another one."""
        expired = EPOCH - timedelta(seconds=1) if question.outcome is SimulatedOutcome.EXPIRED else None
        id = derive("question", self._scenario.seed, question.number)
        query = Query(query_id=id, tenant="t", user=question.user, domain="d", text=text, asked_at=EPOCH, deadline=expired)
        value = b"no json" if question.outcome is SimulatedOutcome.MALFORMED else query.to_bytes()
        ce_id = id if question.outcome is SimulatedOutcome.MALFORMED else (question.number + self._sent) % 3  # the only way to identify a malformed message
        self._sent += 1
        entry = self._cluster.log.append(QUESTIONS.name, query.key, value, envelope_headers(query, id=ce_id, source="/lab"))
        self._note("log", f"question {question.number} at offset {entry.offset}")
        if question not in self._asked:
            self._asked.append(question)

    async def _outages(self) -> None:
        while self._scenario.outage_every_s and not self._is_calm:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * self._scenario.outage_every_s)
            if not self._is_calm:
                self._outage_until = asyncio.get_running_loop().time() + self._rng.uniform(0.2, 8)
                self._note("broker", "outage")

    async def _moves(self, running: list[asyncio.Future[None]]) -> None:
        """Workers that join, or stop and leave the group."""
        while self._scenario.moves_every_s and not self._is_calm:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * self._scenario.moves_every_s)
            if self._is_calm:
                return
            if self._rng.random() < 0.5 or len(self._supervised) < 2:
                running.append(self._start(f"w{len(self._supervised)}"))
            else:
                self._rng.choice(self._supervised[1:]).request_stop()

    def _heal(self) -> None:
        self._note("lab", "no more faults")
        self._is_calm = True
        self._outage_until = 0.0
        for process_run in self._process_runs:
            process_run.is_calm = True

    async def _answered(self) -> None:
        """Waits until every question has an answer or a dead letter, within the bound."""
        deadline = asyncio.get_running_loop().time() + HEALED_WITHIN_S
        numbers = {q.number for q in self._asked}
        while asyncio.get_running_loop().time() < deadline:
            dead_letters, conflicting = self._dead_letters()
            if numbers <= {number for _, number in self._answers()} | set(dead_letters) and len(conflicting) >= sum(q.conflicts for q in self._asked):
                break
            await asyncio.sleep(0.5)
        await asyncio.sleep(1.0)  # so that repeated answers are seen too

    # Handlers

    async def _handle(self, incoming: Incoming[Query], process_run: ProcessRun) -> Sequence[Outgoing]:
        question = self._by_id[incoming.message.query_id]
        await process_run.sleep(question.call_s)
        tries = self._tries[question.number] = self._tries.get(question.number, 0) + 1
        if question.outcome is SimulatedOutcome.AWAY or (question.outcome is SimulatedOutcome.RETRIED and tries < 2):
            raise RetryLater("away", after_s=0.2)
        if question.outcome is SimulatedOutcome.POISON:
            raise PoisonMessage("poison")
        if question.outcome is SimulatedOutcome.BUG:
            raise ZeroDivisionError
        return self._degraded(incoming, DegradeReason.EXHAUSTED)

    def _degraded(self, incoming: Incoming[Query], reason: DegradeReason) -> Sequence[Outgoing]:
        draft = Draft(query=incoming.message, answer="a", base_model="m", base_ms=1.0)
        return [Outgoing(ANSWERS, draft, derive("draft", incoming.message.query_id))]

    # Results

    def _answers(self) -> list[tuple[int, int]]:
        by_id = {str(derive("draft", id)): question.number for id, question in self._by_id.items()}
        log = self._cluster.log
        entries = [(p, entry) for p in log.partitions(ANSWERS.name) for entry in log.read(ANSWERS.name, p, 0, 1 << 30)[0]]
        return [(partition, by_id.get(header_values(entry.headers)["ce_id"].decode(), -1)) for partition, entry in entries]

    def _dead_letters(self) -> tuple[list[int], list[int]]:
        """The questions that were set aside, and those whose id was used again with another text."""
        dead_letters = self._cluster.log.committed_records(dead_letter_topic(QUESTIONS.name))
        assert all(original_position(dead_letter.headers) for dead_letter in dead_letters)
        questions: list[int] = []
        conflicting: list[int] = []
        for dead_letter in dead_letters:
            try:
                query, _ = read_message(Query, dead_letter.headers, dead_letter.value)
            except Malformed:
                questions.append(self._by_id[UUID(header_values(dead_letter.headers)["ce_id"].decode())].number)
            else:
                (questions if query.text == "x" else conflicting).append(self._by_id[query.query_id].number)
        return questions, conflicting

    def _note(self, source: str, event: str) -> None:
        self._trace.append(f"{asyncio.get_running_loop().time():9.3f} {source} {event}")

    def _result(self) -> SimulationResult:
        scenario = self._scenario
        users = {q.number: q.user for q in scenario.questions}
        detected = anomalies(self._asked, self._answers(), *self._dead_letters(), exactly_once=scenario.exactly_once, ordered=scenario.ordered, users=users)
        detected += [f"crash: {type(error).__name__}: {error}" for each in self._supervised for error in each.failures]
        trace = "\n".join(self._trace)
        starts = sum(each.starts for each in self._supervised)
        return SimulationResult(
            scenario.seed, detected, hashlib.sha256(trace.encode()).hexdigest()[:16], len(self._trace), starts, asyncio.get_running_loop().time(), self._trace
        )
