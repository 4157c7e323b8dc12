"""One trace from a platform's query to the trajectory that trains on it, as an OpenTelemetry collector receives it from the processes."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from infra.kafka.clients import producer, send
from infra.kafka.topic_reader import TopicReader
from infra.local.broker import Broker
from infra.settings import Settings, load
from infra.telemetry.export import exporting
from schemas.envelope import new_traceparent, read_envelope
from schemas.ids import is_held_out
from schemas.messages import Message
from schemas.responses import Response
from schemas.strategies import Strategy
from schemas.topics import FEEDBACK, INTERACTIONS, OUTCOMES, QUERIES, RESPONSES, TRAJECTORIES, Topic
from schemas.trajectories import Trajectory
from tests.support.openai_server import completion, serving
from tests.support.otlp_collector import Collector, attributes, collecting
from tests.support.own_broker import own_broker
from tests.support.streams_process import StreamsClient, running
from tests.support.tiny_model import make_checkpoint
from tests.support.trainer_traffic import send_outcomes, trainer_settings
from traffic.lag import GroupLag
from trainer.promotion.bootstrap import bootstrap
from trainer.run.training_run import run_training

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

WAIT_S = 180.0
PROCESSES = ("workers base", "tests.support.streams_member", "workers reflection", "workers teacher")
#: In the query's trace, one each. The chats are of the base model and of the reflection model; what the user wrote becomes an interaction too.
SPANS = {
    *("process queries", "chat traced-base", "send drafts"),
    *("process drafts", "send contexts"),
    *("process contexts", "chat retouch-reflector", "send responses"),
    *("process responses", "send outcomes"),
    *("process outcomes", "send trajectories", "send interactions", "process interactions"),
}


def publish(settings: Settings, topic: Topic, message: Message, traceparent: str) -> None:
    with closing(producer(settings, "platform")) as to:
        send(to, topic, message, id=uuid.uuid4(), source="/platform", traceparent=traceparent)


def wait_for(settings: Settings, topic: Topic, matches: Callable[[Any], bool]) -> Any:
    """The first record of the topic that matches."""
    deadline = time.monotonic() + WAIT_S
    with TopicReader(settings, "test") as reader:
        reader.follow(topic.name)
        while time.monotonic() < deadline:
            if found := next((record for record in reader.poll(0.5) if matches(record)), None):
                return found
    raise AssertionError(f"no such record on {topic.name} within {WAIT_S:g} s")


def trace_of(collector: Collector, traceparent: str) -> dict[str, Any]:
    """Spans by name."""
    return {span.name: span for span in collector.spans if span.trace_id.hex() == traceparent.split("-")[1]}


def test_one_trace_leads_from_a_query_to_its_trajectory(tmp_path: Path) -> None:
    registry = {"tracking_uri": f"sqlite:///{tmp_path}/registry.db"}
    bootstrap(load(registry=registry, stack={"dir": tmp_path / "registry"}))
    asked, answered = new_traceparent(), new_traceparent()
    user = next(name for name in map(str, range(100)) if not is_held_out("acme", name, Settings().trainer.holdout_share))
    with own_broker(tmp_path / "broker") as broker, serving(lambda _: completion("drama")) as endpoint, collecting() as collector, ExitStack() as stack:
        kafka = {"bootstrap_servers": broker.bootstrap_servers}
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OPENAI_BASE_URL": endpoint.url,
            "MLFLOW_TRACKING_URI": registry["tracking_uri"],
            "RETOUCH_BASE__MODEL": "traced-base",
            "RETOUCH_REFLECTION__ENGINE": "transformers",
            "RETOUCH_TELEMETRY__END_WITHIN_S": "60",
        }
        processes = [
            stack.enter_context(running(load(kafka=kafka, stack={"dir": tmp_path / module.replace(" ", "-")}), module, **environment)) for module in PROCESSES
        ]
        settings = load(kafka=kafka, stack={"dir": tmp_path})
        client = stack.enter_context(closing(StreamsClient(settings)))
        client.send(INTERACTIONS, *(client.interaction(text, user=user) for text in ("a stormy voyage", "a calm sea")))
        lag = stack.enter_context(GroupLag(settings))
        lag.wait((INTERACTIONS,), stall_s=WAIT_S)
        query = client.query("a film about the sea", user=user).model_copy(update={"strategy": Strategy.RPO})
        publish(settings, QUERIES, query, asked)
        wait_for(settings, RESPONSES, lambda record: Response.from_bytes(record.value).query_id == query.query_id)
        publish(settings, FEEDBACK, client.feedback(query, "comedy"), answered)
        trajectory = wait_for(settings, TRAJECTORIES, lambda record: Trajectory.from_bytes(record.value).outcome.response.query_id == query.query_id)
        lag.wait((INTERACTIONS, FEEDBACK), stall_s=WAIT_S)
        assert [process.stop() for process in processes] == [0] * len(processes)
    trace = trace_of(collector, asked)
    assert trace.keys() == SPANS
    ids = {span.span_id for span in trace.values()}
    assert {name for name, span in trace.items() if span.parent_span_id not in ids} == {"process queries"}
    assert trace["process queries"].parent_span_id.hex() == asked.split("-")[2]
    assert read_envelope(trajectory.headers).traceparent == f"00-{asked.split('-')[1]}-{trace['send trajectories'].span_id.hex()}-01"
    feedback = trace_of(collector, answered)
    assert feedback.keys() == {"process feedback"}
    assert [link.span_id for link in trace["send outcomes"].links] == [feedback["process feedback"].span_id]
    for chat in (trace["chat traced-base"], trace["chat retouch-reflector"]):
        assert int(attributes(chat.attributes)["gen_ai.usage.input_tokens"]) > 0
    assert attributes(trace["chat retouch-reflector"].attributes)["gen_ai.response.model"] == "retouch-reflector/1"
    assert attributes(trace["process drafts"].attributes)["messaging.consumer.group.name"] == "retouch-streams"
    assert {"gen_ai.client.token.usage", "retouch_group_lag_records"} <= collector.metrics.keys()
    exported = b"".join(span.SerializeToString() for span in collector.spans)
    assert not [text for text in (b"the sea", b"stormy", b"comedy") if text in exported]


def test_a_training_run_links_to_the_traces_of_its_records(broker: Broker, tmp_path: Path) -> None:
    few = {"eval_queries": 2, "sft": {"max_steps": 1, "batch_size": 2}, "rl": {"steps": 1, "prompts_per_step": 1, "candidates": 2, "k_min": 1, "k_max": 2}}
    settings = trainer_settings(broker, make_checkpoint(tmp_path / "parent", seed=1), tmp_path / "state", f"reflector-{tmp_path.name}", **few)
    send_outcomes(settings, [f"traced{number}" for number in range(12)])
    with collecting() as collector, exporting(settings.changed(telemetry={"otlp_endpoint": collector.url, "end_within_s": 60.0}), "trainer"):
        report = run_training(settings, threading.Event(), bootstrap)
    run = next(span for span in collector.spans if span.name == "train")
    stages = [span for span in collector.spans if span.name.startswith("train.")]
    assert {"train.collect", "train.sft", "train.rl", "train.register"} <= {span.name for span in stages}
    assert {span.parent_span_id for span in stages} == {run.span_id} and not run.parent_span_id
    assert attributes(run.attributes) == {"retouch.run_id": report.run_id, "retouch.dataset_digest": report.data.dataset_digest, "retouch.version": "2"}
    written = [record for topic in (OUTCOMES, TRAJECTORIES) for record in all_records(settings, topic)]
    sent = {read_envelope(record.headers).traceparent.split("-")[1] for record in written}
    linked = [link.trace_id.hex() for link in run.links]
    assert linked and len(set(linked)) == len(linked) <= 100 and set(linked) <= sent


def all_records(settings: Settings, topic: Topic) -> list[Any]:
    with TopicReader(settings, "test") as reader:
        return list(reader.read(reader.ranges(topic.name)))
