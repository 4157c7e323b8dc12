"""Spans and metrics of calls of language models, by the names of OpenTelemetry's conventions."""

from __future__ import annotations

import asyncio

import pytest

from infra.endpoints.client import ChatEndpoint, EndpointFailed
from infra.telemetry.export import exporting
from infra.telemetry.metrics import MODEL_CALL_DURATION, MODEL_CALL_TOKENS
from infra.telemetry.model_calls import CalledModel, model_call
from infra.telemetry.prometheus import ProjectMetrics
from infra.telemetry.tracing import span
from schemas.envelope import new_traceparent
from tests.support.openai_server import ScriptedAnswer, completion, failure, scripted, serving
from tests.support.otlp_collector import attributes, collecting, exporting_to


async def ask(url: str, model: str, prompt: str = "hi") -> None:
    async with ChatEndpoint(url, model, api_key=None, timeout_s=30.0, concurrency=1) as endpoint:
        await endpoint.complete(prompt, max_tokens=9)


def points(metric: object) -> dict[tuple[str, ...], tuple[int, float]]:
    """Count and sum by the values of the labels, in the order of their names."""
    return {tuple(value for _, value in labels): (spread.count, spread.sum) for labels, spread in metric.values().items()}  # type: ignore[attr-defined]


async def test_a_call_of_an_endpoint_is_a_client_span_with_tokens_and_without_texts() -> None:
    incoming = new_traceparent()
    with serving(scripted(completion("the secret answer"))) as server, collecting() as collector:  # noqa: SIM117  # the line would be too long
        with exporting(exporting_to(collector.url), "workers base"), span("process queries", incoming):
            await ask(server.url, "traced", "a secret prompt")
    chat, process = collector.spans
    assert (chat.name, chat.kind) == ("chat traced", chat.SPAN_KIND_CLIENT) and chat.parent_span_id == process.span_id
    assert attributes(chat.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "traced",
        "gen_ai.response.model": "m",
        "gen_ai.request.max_tokens": "9",
        "gen_ai.usage.input_tokens": "7",
        "gen_ai.usage.output_tokens": "3",
        "server.address": "127.0.0.1",
        "server.port": str(server.server_address[1]),
    }
    assert server.traceparents == [f"00-{chat.trace_id.hex()}-{chat.span_id.hex()}-01"]
    assert b"secret" not in chat.SerializeToString()


async def test_tokens_and_durations_are_metrics() -> None:
    with serving(scripted(completion("a", prompt_tokens=5, completion_tokens=2))) as server:
        await ask(server.url, "measured")
        await ask(server.url, "measured")
    labels = ("chat", "openai", "measured")
    tokens = {key: value for key, value in points(MODEL_CALL_TOKENS).items() if "measured" in key}
    assert tokens == {(*labels, "input", "127.0.0.1"): (2, 10), (*labels, "output", "127.0.0.1"): (2, 4)}
    ((key, (count, seconds)),) = [item for item in points(MODEL_CALL_DURATION).items() if "measured" in item[0]]
    assert key == ("", *labels, "127.0.0.1") and count == 2 and 0 < seconds < 60


async def test_a_failed_call_names_its_cause_and_status_and_counts_no_tokens() -> None:
    with serving(lambda body: completion("ok") if "Say ok" in str(body) else failure(503)) as server, collecting() as collector:  # noqa: SIM117  # as above
        with exporting(exporting_to(collector.url), "workers base"), pytest.raises(EndpointFailed):
            await ask(server.url, "failing")
    failed = collector.spans[0]
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    found = attributes(failed.attributes)
    assert found["http.response.status_code"] == "503" and found["error.type"] and "gen_ai.usage.input_tokens" not in found
    assert any("failing" in key and key[0] == found["error.type"] for key in points(MODEL_CALL_DURATION))


async def test_an_answer_without_usage_records_no_tokens() -> None:
    answer = completion("a")
    del answer.body["usage"]
    with serving(scripted(ScriptedAnswer(answer.body))) as server:
        await ask(server.url, "unmeasured")
    assert not any("unmeasured" in key for key in points(MODEL_CALL_TOKENS))


async def test_a_model_in_the_process_has_no_server_and_a_cancelled_call_is_recorded() -> None:
    async def call() -> None:
        with model_call(CalledModel("reflector", "vllm")):
            await asyncio.sleep(60)

    with collecting() as collector, exporting(exporting_to(collector.url), "workers reflection"):
        task = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (cancelled,) = collector.spans
    assert cancelled.kind == cancelled.SPAN_KIND_INTERNAL
    assert attributes(cancelled.attributes)["error.type"] == "CancelledError" and "server.address" not in attributes(cancelled.attributes)
    assert ("CancelledError", "chat", "vllm", "reflector", "") in points(MODEL_CALL_DURATION)


def test_prometheus_gets_the_conventions_names_as_a_collector_would_give_them() -> None:
    MODEL_CALL_TOKENS.record(
        3,
        **{"gen_ai.operation.name": "chat", "gen_ai.provider.name": "p", "gen_ai.request.model": "x", "server.address": "", "gen_ai.token.type": "input"},
    )
    MODEL_CALL_DURATION.record(
        3.0, **{"gen_ai.operation.name": "chat", "gen_ai.provider.name": "p", "gen_ai.request.model": "x", "server.address": "", "error.type": ""}
    )
    families = {family.name: family for family in ProjectMetrics([MODEL_CALL_TOKENS, MODEL_CALL_DURATION]).collect()}
    assert families.keys() == {"gen_ai_client_token_usage", "gen_ai_client_operation_duration_seconds"}
    labels = {"gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "server_address", "gen_ai_token_type", "le"}
    assert families["gen_ai_client_token_usage"].samples[0].labels.keys() == labels
