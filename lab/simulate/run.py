"""One seed from start to verdict: the runtime on the in-memory broker, in virtual time, with faults at every step between poll and commit."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from infra.errors import PoisonMessage, RetryLater
from infra.settings import DeliveryMode, KeyOrder, Settings
from lab.simulate.checker import anomalies
from lab.simulate.process import ProcessRun, SupervisedProcess
from lab.simulate.scenario import HandlerOutcome, SimulatedQuestion, SimulationScenario, scenario
from lab.simulate.virtual_time import EPOCH, run_in_virtual_time
from schemas.dead_letters import original_position
from schemas.drafts import Draft
from schemas.envelope import envelope_headers
from schemas.ids import derive
from schemas.queries import Query
from schemas.topics import Topic, dead_letter_topic
from workers.runtime.handler import DegradeReason, HandlerSpec, Incoming, Outgoing
from workers.runtime.memory.broker import MemoryBrokerClient
from workers.runtime.memory.cluster import MemoryCluster
from workers.runtime.retry import Backoff
from workers.runtime.worker import Worker

QUESTIONS = Topic("questions", Query, "tenant/user", "simulation", "simulation")
ANSWERS = Topic("answers", Draft, "tenant/user", "simulation", "simulation")
#: How long after the last fault everything must be answered, in virtual seconds: the longest retries take 20 s.
HEALED_WITHIN_S = 90.0


@dataclass(frozen=True)
class SimulationResult:
    """`digest` is of the whole trace: the same seed gives the same."""

    seed: int
    anomalies: Sequence[str]
    digest: str
    steps: int
    starts: int
    virtual_s: float
    trace: Sequence[str]


def simulate(seed: int) -> SimulationResult:
    """Raises Stuck for a seed that hangs or runs in circles."""
    runtime = logging.getLogger("workers.runtime")
    before = runtime.level
    runtime.setLevel(logging.CRITICAL)  # faults on purpose, thousands of them
    try:
        return run_in_virtual_time(Simulation(scenario(seed)).play())
    finally:
        runtime.setLevel(before)


class Simulation:
    def __init__(self, of: SimulationScenario) -> None:
        self._of = of
        self._rng = random.Random(of.seed + 1)  # noqa: S311  # a simulation, no secret
        self._trace: list[str] = []
        self._outage_until = 0.0
        self._calm = False
        self._tries: dict[int, int] = {}
        self._asked: list[SimulatedQuestion] = []
        self._by_id = {derive("question", of.seed, q.number): q for q in of.questions}
        self._supervised: list[SupervisedProcess] = []
        self._lives: list[ProcessRun] = []
        workers = {
            "delivery": DeliveryMode.EXACTLY_ONCE if of.exactly_once else DeliveryMode.AT_LEAST_ONCE,
            "order": KeyOrder.KEY if of.ordered else KeyOrder.NONE,
            "commit_every_ms": of.commit_every_ms,
            "metadata_bytes": of.metadata_bytes,
        }
        self._settings = Settings.model_validate({"workers": workers})

    async def play(self) -> SimulationResult:
        of = self._of
        names = (QUESTIONS.name, ANSWERS.name, dead_letter_topic(QUESTIONS.name))
        self._cluster = MemoryCluster(dict.fromkeys(names, of.partitions), session_timeout_s=of.session_timeout_s, metadata_bytes=of.metadata_bytes)
        running = [self._start(f"w{number}") for number in range(of.workers)]
        beside = [asyncio.ensure_future(work) for work in (self._ask(), self._outages(), self._moves(running))]
        await asyncio.sleep(of.faults_until_s)
        self._heal()
        await asyncio.gather(*beside)
        for late in self._supervised:  # a fault of the last moment
            if late.life:
                late.life.calm = True
        await self._answered()
        for each in self._supervised:
            each.ask_to_stop()
        await asyncio.gather(*running)
        return self._result()

    def _start(self, name: str) -> asyncio.Future[None]:
        rng = random.Random(f"{self._of.seed}/{name}")  # noqa: S311  # a simulation, no secret
        supervised = SupervisedProcess(name, lambda life: self._worker(name, life, rng), lambda: self._life(name, rng), rng, self._note)
        self._supervised.append(supervised)
        return asyncio.ensure_future(supervised.live())

    def _life(self, name: str, rng: random.Random) -> ProcessRun:
        life = ProcessRun(name, self._of, rng, self._note, lambda: self._outage_until - asyncio.get_running_loop().time())
        life.calm = self._calm
        self._lives.append(life)
        return life

    def _worker(self, name: str, life: ProcessRun, rng: random.Random) -> Worker[Query]:
        backoff = Backoff(attempts=3, first_s=0.1, longest_s=2.0)
        spec = HandlerSpec("simulated", QUESTIONS, lambda incoming: self._handle(incoming, life), lambda query: query.deadline, self._degraded, backoff)
        broker = MemoryBrokerClient(self._cluster, name, life)
        return Worker(self._settings, spec, concurrency=self._of.concurrency, broker=broker, clock=life, rng=rng)

    # What happens

    async def _ask(self) -> None:
        """Questions in the order of their times; some come twice or three times."""
        order = sorted(self._of.questions, key=lambda q: q.at_s)
        repeats = [(q, q.at_s + 0.7 * (again + 1)) for q in order for again in range(q.repeats)]
        for question, at_s in sorted([*((q, q.at_s) for q in order), *repeats], key=lambda pair: (pair[1], pair[0].number)):
            await asyncio.sleep(max(0.0, at_s - asyncio.get_running_loop().time()))
            self._append(question)

    def _append(self, question: SimulatedQuestion) -> None:
        expired = EPOCH - timedelta(seconds=1) if question.fate is HandlerOutcome.EXPIRED else None
        id = derive("question", self._of.seed, question.number)
        query = Query(query_id=id, tenant="t", user=question.user, domain="d", text="x", asked_at=EPOCH, deadline=expired)
        value = b"no json" if question.fate is HandlerOutcome.MALFORMED else query.to_bytes()
        entry = self._cluster.log.append(QUESTIONS.name, query.key, value, envelope_headers(query, id=id, source="/lab"))
        self._note("log", f"question {question.number} at offset {entry.offset}")
        if question not in self._asked:
            self._asked.append(question)

    async def _outages(self) -> None:
        while self._of.outage_every_s and not self._calm:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * self._of.outage_every_s)
            if not self._calm:
                self._outage_until = asyncio.get_running_loop().time() + self._rng.uniform(0.2, 8)
                self._note("broker", "away")

    async def _moves(self, running: list[asyncio.Future[None]]) -> None:
        """Workers that join, or stop in order and leave the group."""
        while self._of.moves_every_s and not self._calm:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * self._of.moves_every_s)
            if self._calm:
                return
            if self._rng.random() < 0.5 or len(self._supervised) < 2:
                running.append(self._start(f"w{len(self._supervised)}"))
            else:
                self._rng.choice(self._supervised[1:]).ask_to_stop()

    def _heal(self) -> None:
        self._note("lab", "no more faults")
        self._calm = True
        self._outage_until = 0.0
        for life in self._lives:
            life.calm = True

    async def _answered(self) -> None:
        """Until everything asked has ended, or the time for it is over."""
        deadline = asyncio.get_running_loop().time() + HEALED_WITHIN_S
        wanted = {q.number for q in self._asked}
        while asyncio.get_running_loop().time() < deadline:
            if wanted <= {number for _, number in self._answers()} | set(self._letters()):
                break
            await asyncio.sleep(0.5)
        await asyncio.sleep(1.0)  # one answer too many shows up too

    # What the handlers do

    async def _handle(self, incoming: Incoming[Query], life: ProcessRun) -> Sequence[Outgoing]:
        question = self._by_id[incoming.message.query_id]
        await life.sleep(question.call_s)
        tries = self._tries[question.number] = self._tries.get(question.number, 0) + 1
        if question.fate is HandlerOutcome.AWAY or (question.fate is HandlerOutcome.RETRIED and tries < 2):
            raise RetryLater("away", after_s=0.2)
        if question.fate is HandlerOutcome.POISON:
            raise PoisonMessage("poison")
        if question.fate is HandlerOutcome.BUG:
            raise ZeroDivisionError
        return self._degraded(incoming, DegradeReason.EXHAUSTED)

    def _degraded(self, incoming: Incoming[Query], why: DegradeReason) -> Sequence[Outgoing]:
        draft = Draft(query=incoming.message, answer="a", base_model="m", base_ms=1.0)
        return [Outgoing(ANSWERS, draft, derive("draft", incoming.message.query_id))]

    # What there is to see

    def _answers(self) -> list[tuple[int, int]]:
        by_id = {str(derive("draft", id)): question.number for id, question in self._by_id.items()}
        log = self._cluster.log
        found = [(p, entry) for p in log.partitions(ANSWERS.name) for entry in log.read(ANSWERS.name, p, 0, 1 << 30)[0]]
        return [(partition, by_id.get(dict(entry.headers)["ce_id"].decode(), -1)) for partition, entry in found]

    def _letters(self) -> list[int]:
        by_id = {str(id): question.number for id, question in self._by_id.items()}
        letters = self._cluster.log.committed_records(dead_letter_topic(QUESTIONS.name))
        assert all(original_position(letter.headers) for letter in letters)
        return [by_id[dict(letter.headers)["ce_id"].decode()] for letter in letters]

    def _note(self, who: str, what: str) -> None:
        self._trace.append(f"{asyncio.get_running_loop().time():9.3f} {who} {what}")

    def _result(self) -> SimulationResult:
        of = self._of
        users = {q.number: q.user for q in of.questions}
        found = anomalies(self._asked, self._answers(), self._letters(), exactly_once=of.exactly_once, ordered=of.ordered, users=users)
        found += [f"crash: {type(error).__name__}: {error}" for each in self._supervised for error in each.failures]
        trace = "\n".join(self._trace)
        starts = sum(each.lives for each in self._supervised)
        return SimulationResult(
            of.seed, found, hashlib.sha256(trace.encode()).hexdigest()[:16], len(self._trace), starts, asyncio.get_running_loop().time(), self._trace
        )
