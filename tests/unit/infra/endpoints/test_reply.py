"""What each kind of HTTP answer means."""

from __future__ import annotations

import gzip
import json
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from infra.endpoints.refusals import Meaning
from infra.endpoints.reply import MAX_BODY_BYTES, MAX_EVENTS, MAX_RETRY_AFTER_S, ChatAnswer, Failure, clean_text, json_object, read_reply
from schemas.drafts import Draft, FailureCause, Usage
from tests.support.worker_messages import make_query

EVERY, PROMPT, RETRY = Meaning.EVERY_PROMPT, Meaning.PROMPT, Meaning.RETRY


def completion(content: Any, *, usage: Any = None, finish_reason: Any = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish_reason}
    return {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


def read(body: Any, status: int = 200, **headers: str) -> ChatAnswer | Failure:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def answer(body: Any, **headers: str) -> ChatAnswer:
    reading = read(body, 200, **headers)
    assert isinstance(reading, ChatAnswer), reading
    return reading


def failure(body: Any, status: int = 200, **headers: str) -> Failure:
    reading = read(body, status, **headers)
    assert isinstance(reading, Failure), reading
    return reading


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, (7, 3)),
        ({"prompt_tokens": 7.0, "completion_tokens": 3}, (7, 3)),
        ({"prompt_tokens": None, "completion_tokens": 3}, (0, 3)),
        ({"prompt_tokens": 3.5, "completion_tokens": 3}, (0, 3)),
        ({"prompt_tokens": -1, "completion_tokens": 3}, (0, 3)),
        ({"prompt_tokens": "7", "completion_tokens": True}, (0, 0)),
        ({"prompt_tokens": 10**4000, "completion_tokens": [3]}, (0, 0)),
        ({}, (0, 0)),
        (None, (0, 0)),
        (3, (0, 0)),
        ("many", (0, 0)),
        ([1], (0, 0)),
    ],
)
def test_usage_never_decides_whether_there_is_an_answer(usage: Any, expected: tuple[int, int]) -> None:
    assert answer(completion("Comedy", usage=usage)) == ChatAnswer("Comedy", Usage(prompt_tokens=expected[0], completion_tokens=expected[1]))


@pytest.mark.parametrize("number", ["1e400", "NaN", "-Infinity", "9" * 5000])
def test_numbers_that_python_does_not_read_are_no_obstacle(number: str) -> None:
    body = json.dumps(completion("Comedy", usage={"prompt_tokens": "N"})).replace('"N"', number).encode()
    assert answer(body) == ChatAnswer("Comedy")


def test_an_answer_without_usage_id_role_or_finish_reason_counts() -> None:
    assert answer({"choices": [{"message": {"content": "Comedy"}}]}).text == "Comedy"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("\ud83d", "\ufffd"),
        ("a film \ud83d", "a film \ufffd"),
        ("\ude00 a", "\ufffd a"),
        ("\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        ("\U0001f600", "\U0001f600"),
        (["\ud83d", "\ude00"], "\U0001f600"),
        ("Com\x00edy\x1b[31m\x7f\x85", "Comedy[31m"),
        ("a\tb\r\nc", "a\tb\r\nc"),
        ("\ufeffComedy", "Comedy"),
    ],
)
def test_a_text_can_be_written_and_shown(content: Any, text: str) -> None:
    cleaned = answer(completion(content)).text
    assert cleaned == text
    Draft(query=make_query(), answer=cleaned, base_model="m", base_ms=1.0).to_bytes().decode("utf-8")


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ([{"type": "text", "text": "Com"}, {"type": "text", "text": "edy"}], "Comedy", ""),
        ([{"type": "output_text", "text": "Com", "annotations": []}, "edy"], "Comedy", ""),
        ([{"text": "Comedy"}], "Comedy", ""),
        ([{"type": None, "text": "Comedy"}], "Comedy", ""),
        ({"type": "text", "text": "Comedy"}, "Comedy", ""),
        ([{"type": "text", "text": {"value": "Comedy"}}], "Comedy", ""),
        ([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "Comedy"}, None, 3, {"type": ["text"], "text": "no"}], "Comedy", ""),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "dark"}]}, {"type": "text", "text": "Comedy"}], "Comedy", "dark"),
        ([{"type": "reasoning", "text": "dark"}, {"type": "text", "text": "Comedy"}], "Comedy", "dark"),
        ("<think>dark</think>Comedy", "Comedy", "dark"),
        ("\n<think>\ndark\n</think>\n\nComedy", "\n\nComedy", "\ndark\n"),
        ("<think></think><think>dark</think>Comedy", "Comedy", "dark"),
        ("<THINKING>dark</THINKING>Comedy", "Comedy", "dark"),
        ("dark, so</think>Comedy", "Comedy", "dark, so"),
        ("\u200b\u2060<think>dark</think>Comedy", "Comedy", "dark"),
        ("[THINK]dark[/THINK]Comedy", "Comedy", "dark"),
        ("a < b </i> c", "a < b </i> c", ""),
        ("The tag <think>…</think> is XML", "The tag <think>…</think> is XML", ""),
        ("<think>a<think>b</think>c</think>Comedy", "Comedy", "a<think>b</think>c"),
        ("<think>is <think> a tag? no</think>Comedy", "Comedy", "is <think> a tag? no"),
        ("<think>dark</think></think>\nComedy", "\nComedy", "dark"),
        ("<think>dark</think>Comedy </think> ends it", "Comedy </think> ends it", "dark"),
        ("<think>dark</think>Comedy <think>dark</think>", "Comedy <think>dark</think>", "dark"),
        ("< Think >dark</think >Comedy", "Comedy", "dark"),
        ("dark</ THINK\n>Comedy", "Comedy", "dark"),
        ("a<think>b</think>c</think>Comedy", "Comedy", "a<think>b</think>c"),
        ("<thoughts>dark</thoughts>Comedy", "Comedy", "dark"),
        ("<thought>dark</thought>Comedy", "Comedy", "dark"),
        ("<reasoning>dark</reasoning>Comedy", "Comedy", "dark"),
        ("<reasoning><think>dark</think></reasoning>Comedy", "Comedy", "<think>dark</think>"),
        ("<seed:think>dark</seed:think>Comedy", "Comedy", "dark"),
        ("◁think▷dark◁/think▷Comedy", "Comedy", "dark"),
        ("dark[/THINK]Comedy", "Comedy", "dark"),
        ("<|channel|>analysis<|message|>dark<|end|><|start|>assistant<|channel|>final<|message|>Comedy", "Comedy", "dark<|end|><|start|>assistant"),
        (
            "<|channel|>analysis<|message|>a<|channel|>commentary to=x<|message|>b<|channel|>final<|message|>Comedy",
            "Comedy",
            "a<|channel|>commentary to=x<|message|>b",
        ),
        ("<|channel|>final<|message|>Comedy", "Comedy", ""),
        ("Write `</think>` at its end", "Write `</think>` at its end", ""),
        ('The tag "</think>" ends it', 'The tag "</think>" ends it', ""),
        ("<think>as `</think>` does</think>Comedy", "Comedy", "as `</think>` does"),
        ("Like this:\n```\nso</think>\n```", "Like this:\n```\nso</think>\n```", ""),
        ("```\nx\n```\nso</think>Comedy", "Comedy", "```\nx\n```\nso"),
        ("<think>I open ```json first</think>\n```json\n{}\n```", "\n```json\n{}\n```", "I open ```json first"),
        ("I open ```json first</think>\n```json\n{}\n```", "\n```json\n{}\n```", "I open ```json first"),
        ("<think>So:\n```json\n{</think>\n```json\n{}\n```", "\n```json\n{}\n```", "So:\n```json\n{"),
        ('<think>It is a "Comedy"</think>"Comedy"', '"Comedy"', 'It is a "Comedy"'),
        ('It is a "Comedy"</think>"Comedy"', '"Comedy"', 'It is a "Comedy"'),
        ("It is ‘dark’.</think>“Comedy”", "“Comedy”", "It is ‘dark’."),
        ('Tags ("</think>") end it', 'Tags ("</think>") end it', ""),
        ("Begin with <think>", "Begin with <think>", ""),
        ("<thinker>a</thinker>", "<thinker>a</thinker>", ""),
        ("I think > you think", "I think > you think", ""),
        ("<think/>Comedy", "<think/>Comedy", ""),
    ],
)
def test_parts_are_joined_and_reasoning_is_kept_apart(content: Any, text: str, reasoning: str) -> None:
    assert answer(completion(content)) == ChatAnswer(text, reasoning=reasoning)


def test_a_code_and_a_parameter_that_say_nothing_are_not_shown() -> None:
    assert str(failure({"error": {"message": "no", "type": "None", "param": "None", "code": "401"}}, 401)) == "wrong_key, status 401"


def test_a_long_text_of_tags_is_read_in_linear_time() -> None:
    for unit in ("<think></think>", "a<think></think>", "</think>", "```</think>", "```a\n</think>", "```\n", "`</think>`", "<" + " " * 1000, "◁/"):
        read(completion("a" + unit * (100_000 // len(unit))))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_in_its_own_field_is_no_part_of_the_answer(field: str) -> None:
    assert answer(completion("Comedy", **{field: "dark"})) == ChatAnswer("Comedy", reasoning="dark")


@pytest.mark.parametrize(
    ("body", "cause", "code"),
    [
        (completion(None), FailureCause.NO_TEXT, "stop"),
        (completion(""), FailureCause.NO_TEXT, "stop"),
        (completion(" \n\u200b\u2060\ufeff"), FailureCause.NO_TEXT, "stop"),
        (completion(17), FailureCause.NO_TEXT, "stop"),
        (completion([]), FailureCause.NO_TEXT, "stop"),
        (completion(None, tool_calls=[{"id": "1", "type": "function"}], finish_reason="tool_calls"), FailureCause.NO_TEXT, "tool_calls"),
        (completion(None, finish_reason=["a user's words"]), FailureCause.NO_TEXT, ""),
        ({"choices": [{"message": None}]}, FailureCause.NO_TEXT, ""),
        (completion("<think>dark", finish_reason="length"), FailureCause.ONLY_REASONING, "length"),
        (completion("<think>dark</think>\n"), FailureCause.ONLY_REASONING, "stop"),
        (completion("dark</think>"), FailureCause.ONLY_REASONING, "stop"),
        (completion("<think>a<think>b</think>"), FailureCause.ONLY_REASONING, "stop"),
        (completion(None, reasoning_content="dark"), FailureCause.ONLY_REASONING, "stop"),
        (completion("Com", finish_reason="content_filter"), FailureCause.FILTERED, "content_filter"),
        (completion(None, refusal="I'm sorry"), FailureCause.FILTERED, "refusal"),
        (completion([{"type": "refusal", "refusal": "I'm sorry"}]), FailureCause.FILTERED, "refusal"),
        (completion("x" * 32_769), FailureCause.ANSWER_TOO_LONG, ""),
        (b" " * (MAX_BODY_BYTES + 1), FailureCause.ANSWER_TOO_LONG, ""),
        (gzip.compress(b" " * (3 * MAX_BODY_BYTES)), FailureCause.ANSWER_TOO_LONG, ""),
    ],
)
def test_an_answer_without_a_usable_text_is_this_prompts_failure(body: Any, cause: FailureCause, code: str) -> None:
    assert failure(body) == Failure(PROMPT, cause, 200, code=code)


def test_a_refusal_field_beside_a_text_does_not_count() -> None:
    assert answer(completion("Comedy", refusal="")).text == "Comedy"


def test_legacy_texts_and_further_choices_are_read() -> None:
    assert answer({"choices": [{"text": "Comedy"}, {"text": "Drama"}, None]}).text == "Comedy"
    assert answer({"choices": [{"delta": {"content": "Comedy"}}]}).text == "Comedy"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (gzip.compress(json.dumps(completion("Comedy")).encode()), {"Content_Encoding": "gzip"}),
        (gzip.compress(json.dumps(completion("Comedy")).encode()), {}),
        (zlib.compress(json.dumps(completion("Comedy")).encode()), {"content_encoding": "deflate"}),
        (zlib.compress(json.dumps(completion("Comedy")).encode(), wbits=-15), {"content_encoding": "Deflate"}),
        (json.dumps(completion("Comedy")).encode(), {"content_encoding": "gzip"}),
        (json.dumps(completion("Comedy")).encode(), {"content_encoding": "deflate"}),
        (b"\xef\xbb\xbf" + json.dumps(completion("Comedy")).encode(), {}),
        (json.dumps(completion("Comedy")).encode("utf-16"), {}),
    ],
)
def test_compressed_bodies_and_byte_order_marks_are_read(body: bytes, headers: dict[str, str]) -> None:
    assert answer(body, **headers).text == "Comedy"


def test_bytes_that_are_no_utf8_spoil_only_themselves() -> None:
    assert answer(json.dumps(completion("Com?dy")).encode().replace(b"?", b"\xe9")).text == "Com\ufffddy"


def stream(*events: Any, end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b": hello\n\n" + b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + end


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": fields}]}


def test_a_stream_that_nobody_asked_for_is_joined() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    body = stream(delta(role="assistant"), delta(reasoning_content="dark"), delta(content="Com\ud83d"), delta(content="\ude00edy"), usage)
    assert answer(body) == ChatAnswer("Com\U0001f600edy", Usage(prompt_tokens=7, completion_tokens=3), "dark")


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (stream(delta(content="Com"), end=b""), FailureCause.UNREADABLE),
        (stream(delta(content="Com"), {"error": {"message": "no", "code": 502}}), FailureCause.SERVER_ERROR),
        (b"", FailureCause.UNREADABLE),
        (b"[]", FailureCause.UNREADABLE),
        (b"{}", FailureCause.UNREADABLE),
        (b"null", FailureCause.UNREADABLE),
        (b"<xml/>", FailureCause.UNREADABLE),
        (b"[" * 100_000, FailureCause.UNREADABLE),
        (b'{"a":' * 100_000, FailureCause.UNREADABLE),
        ({"choices": []}, FailureCause.UNREADABLE),
        ({"choices": {}}, FailureCause.UNREADABLE),
        ({"choices": ["Comedy"]}, FailureCause.UNREADABLE),
        (json.dumps(completion("Comedy")).encode()[:-5], FailureCause.UNREADABLE),
        (gzip.compress(json.dumps(completion("Comedy")).encode())[:-20], FailureCause.UNREADABLE),
        (b"\n<!DOCTYPE html><html>Bad gateway</html>", FailureCause.WEB_PAGE),
        ({"error": {"message": "overloaded"}}, FailureCause.SERVER_ERROR),
        ({"error": "overloaded"}, FailureCause.SERVER_ERROR),
        (completion("") | {"error": {"message": "overloaded", "code": 503}}, FailureCause.SERVER_ERROR),
        (stream(*[{}] * (MAX_EVENTS + 1)), FailureCause.UNREADABLE),
        ({"error": {"message": "slow down", "code": 429}}, FailureCause.RATE_LIMITED),
        (completion("Com", finish_reason="error"), FailureCause.SERVER_ERROR),
    ],
)
def test_other_bodies_with_status_200_are_worth_another_try(body: Any, cause: FailureCause) -> None:
    reading = failure(body)
    assert (reading.meaning, reading.cause) == (RETRY, cause)


@pytest.mark.parametrize(
    ("status", "error", "cause"),
    [
        (403, {"errors": [{"reason": "rateLimitExceeded"}], "code": 403, "details": [{"reason": "RATE_LIMIT_EXCEEDED"}]}, FailureCause.RATE_LIMITED),
        (400, {"code": "ThrottlingException"}, FailureCause.RATE_LIMITED),
        (400, {"code": "model_not_ready"}, FailureCause.SERVER_ERROR),
        (400, {"type": "overloaded_error"}, FailureCause.SERVER_ERROR),
        (404, {"code": "model_loading"}, FailureCause.SERVER_ERROR),
    ],
)
def test_a_temporary_code_is_retried_whatever_the_status(status: int, error: dict[str, Any], cause: FailureCause) -> None:
    reading = failure({"error": error}, status)
    assert (reading.meaning, reading.cause) == (RETRY, cause)


def test_a_request_that_is_too_large_for_a_rate_limit_never_gets_an_answer() -> None:
    reading = failure({"error": {"code": "rate_limit_exceeded", "type": "tokens"}}, 413)
    assert (reading.meaning, reading.cause) == (PROMPT, FailureCause.PROMPT_TOO_LONG)


@pytest.mark.parametrize("status", [100, 204, 408, 409, 424, 425, 429, 498, 499, 500, 502, 503, 529, 599, 999])
def test_temporary_statuses_are_worth_another_try(status: int) -> None:
    reading = failure(b"", status, Retry_After="2.5")
    assert (reading.meaning, reading.after_s) == (RETRY, 2.5)


@pytest.mark.parametrize(
    ("value", "least_s", "most_s"),
    [
        ("2.5", 2.5, 2.5),
        ("-5", 0, 0),
        ("inf", MAX_RETRY_AFTER_S, MAX_RETRY_AFTER_S),
        ("-inf", 0, 0),
        ("nan", 0, 0),
        ("1e400", MAX_RETRY_AFTER_S, MAX_RETRY_AFTER_S),
        ("9" * 5000, MAX_RETRY_AFTER_S, MAX_RETRY_AFTER_S),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_S, MAX_RETRY_AFTER_S),
        ("Fri, 31 Dec 9999 23:59:59 -2359", MAX_RETRY_AFTER_S, MAX_RETRY_AFTER_S),
        ("Sat, 01 Jan 0001 00:00:00 +2359", 0, 0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0, 0),
        ("Fri, 31 Feb 2026 23:59:59 GMT", 0, 0),
        ("Fri, 31 Dec 2026 23:59:59 +99999999999999999999", 0, 0),
        ("Thu, 01 Jan 1970 00:00:00", 0, 0),
        ("soon", 0, 0),
        ("1 2", 0, 0),
        (",", 0, 0),
        ("", 0, 0),
        ("\x00\udcff", 0, 0),
    ],
)
def test_retry_after_is_bounded_and_nonsense_is_ignored(value: str, least_s: float, most_s: float) -> None:
    assert least_s <= failure(b"", 503, **{"Retry-After": value}).after_s <= most_s


def test_retry_after_may_be_a_date() -> None:
    in_two_minutes = format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)
    assert 1 <= failure(b"", 503, **{"Retry-After": in_two_minutes}).after_s <= 120


def test_the_pause_in_milliseconds_is_read() -> None:
    assert failure(b"", 429, Retry_After_Ms="1500").after_s == 1.5


@pytest.mark.parametrize(
    ("status", "error", "cause"),
    [
        (401, {"code": "invalid_api_key", "type": "invalid_request_error"}, FailureCause.WRONG_KEY),
        (401, None, FailureCause.WRONG_KEY),
        (402, None, FailureCause.NO_CREDIT),
        (403, None, FailureCause.NOT_ALLOWED),
        (404, None, FailureCause.WRONG_URL),
        (404, {"message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}, FailureCause.WRONG_MODEL),
        (404, {"code": "DeploymentNotFound"}, FailureCause.WRONG_MODEL),
        (301, None, FailureCause.WRONG_URL),
        (308, None, FailureCause.WRONG_URL),
        (405, None, FailureCause.WRONG_URL),
        (400, {"code": "invalid_api_key"}, FailureCause.WRONG_KEY),
        (400, {"status": "INVALID_ARGUMENT", "code": 400, "details": [{"reason": "API_KEY_INVALID"}]}, FailureCause.WRONG_KEY),
        (400, {"code": "model_not_found", "param": "model"}, FailureCause.WRONG_MODEL),
        (400, {"type": "insufficient_quota"}, FailureCause.NO_CREDIT),
        (429, {"code": "insufficient_quota", "type": "insufficient_quota"}, FailureCause.NO_CREDIT),
        (429, {"code": "billing_hard_limit_reached"}, FailureCause.NO_CREDIT),
        (400, {"code": "account_deactivated"}, FailureCause.WRONG_KEY),
        (503, {"code": "model_not_found"}, FailureCause.WRONG_MODEL),
        (400, {"code": "unsupported_parameter", "param": "top_k"}, FailureCause.WRONG_PARAMETER),
        (400, {"code": "unknown_parameter", "param": "top_k"}, FailureCause.WRONG_PARAMETER),
    ],
)
def test_codes_and_statuses_that_concern_every_prompt(status: int, error: dict[str, Any] | None, cause: FailureCause) -> None:
    reading = failure(b"" if error is None else {"error": {"message": "no"} | error}, status)
    assert (reading.meaning, reading.cause) == (EVERY, cause)


@pytest.mark.parametrize(
    ("status", "error", "cause"),
    [
        (400, {"code": "context_length_exceeded"}, FailureCause.PROMPT_TOO_LONG),
        (400, {"message": "This model's maximum context length is 8 tokens", "type": "BadRequestError"}, FailureCause.PROMPT_TOO_LONG),
        (413, None, FailureCause.PROMPT_TOO_LONG),
        (400, {"code": "content_filter"}, FailureCause.FILTERED),
        (403, {"code": 403, "message": "flagged", "metadata": {"reasons": ["x"], "flagged_input": "a user's words"}}, FailureCause.FILTERED),
        (400, None, FailureCause.PROMPT_REFUSED),
        (400, {"code": "something_new"}, FailureCause.PROMPT_REFUSED),
        (422, None, FailureCause.PROMPT_REFUSED),
        (451, None, FailureCause.PROMPT_REFUSED),
    ],
)
def test_codes_and_statuses_that_concern_this_prompt(status: int, error: dict[str, Any] | None, cause: FailureCause) -> None:
    reading = failure(b"" if error is None else {"error": error}, status)
    assert (reading.meaning, reading.cause) == (PROMPT, cause)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no", "type": "insufficient_quota", "param": None, "code": None}},
        {"error": "no", "code": "insufficient_quota"},
        {"error": "no", "error_type": "insufficient_quota"},
        {"error": "insufficient_quota", "error_description": "no"},
        {"object": "error", "message": "no", "type": "insufficient_quota", "param": None, "code": 429},
        [{"error": {"code": 429, "status": "insufficient_quota"}}],
        {"type": "error", "error": {"type": "insufficient_quota", "message": "no"}},
        {"errors": [{"code": "InsufficientQuota"}]},
    ],
)
def test_errors_of_many_endpoints_are_found(body: Any) -> None:
    assert (failure(body, 429).meaning, failure(body, 429).cause) == (EVERY, FailureCause.NO_CREDIT)


def test_an_error_with_status_200_means_what_its_own_status_says() -> None:
    assert failure({"error": {"message": "no", "code": 402}}).meaning is EVERY
    assert failure({"error": {"message": "no", "code": "context_length_exceeded"}}).meaning is PROMPT


@pytest.mark.parametrize(
    ("status", "body", "param"),
    [
        (400, {"error": {"code": "unsupported_parameter", "param": "max_tokens"}}, "max_tokens"),
        (400, {"error": {"code": "unsupported_value", "param": "temperature"}}, "temperature"),
        (
            400,
            {"error": {"message": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."}},
            "max_tokens",
        ),
        (400, {"error": {"message": "Unsupported value: 'temperature' does not support 0 with this model."}}, "temperature"),
        (400, {"error": {"message": "Unrecognized request argument supplied: max_tokens"}}, "max_tokens"),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]}, "max_tokens"),
        (400, {"error": {"message": "Invalid parameter: 'response_format' of type 'json_schema' is not supported."}}, "response_format"),
        (400, {"error": {"message": "litellm.UnsupportedParamsError: groq does not support parameters: ['temperature'], for model=m"}}, "temperature"),
        (400, {"error": {"code": "invalid_value", "param": "response_format.json_schema"}}, "response_format"),
    ],
)
def test_the_parameter_that_an_endpoint_refuses_is_found(status: int, body: Any, param: str) -> None:
    reading = failure(body, status)
    assert (reading.meaning, reading.cause, reading.param) == (EVERY, FailureCause.WRONG_PARAMETER, param)


@pytest.mark.parametrize(
    "message",
    [
        "The prompt 'what is response_format' is not allowed",
        "Cannot answer: Unsupported parameter: 'max_tokens'",
        "max_tokens is too large: 9000",
        "Invalid prompt: Unrecognized request argument supplied: temperature",
    ],
)
def test_a_parameter_that_a_message_only_quotes_decides_nothing(message: str) -> None:
    reading = failure({"error": {"message": message, "type": "invalid_request_error", "param": "messages", "code": None}}, 400)
    assert (reading.meaning, reading.cause, reading.param) == (PROMPT, FailureCause.PROMPT_REFUSED, "messages")


def test_the_text_of_a_failure_holds_no_message_and_no_odd_code() -> None:
    error = {"message": "a user's words " * 1000, "code": "a user's words", "type": "x" * 100, "param": "a user's words"}
    reading = failure({"error": error}, 400)
    assert str(reading) == "prompt_refused, status 400"
    assert "words" not in repr(reading) and len(reading.message) <= 300


def test_a_message_is_one_clean_line() -> None:
    assert failure({"error": {"message": "no\ncredit\x1b[0m \ud83d", "code": "x"}}, 402).message == "no credit[0m \ufffd"


@pytest.mark.parametrize(
    "text",
    [
        '{"reasoning": "r", "personalized": "p"}',
        '\ufeff {"reasoning": "r", "personalized": "p"}\n',
        '```json\n{"reasoning": "r", "personalized": "p"}\n```',
        'Here it is {as you asked}:\n```\n{"reasoning": "r", "personalized": "p", "also": {"x": [1]}}\n```\nGood luck {}',
        '{"result": {"reasoning": "r", "personalized": "p"}}',
    ],
)
def test_a_json_object_is_found_in_a_text(text: str) -> None:
    found = json_object(text, ["reasoning", "personalized"])
    assert found is not None and (found["reasoning"], found["personalized"]) == ("r", "p")


@pytest.mark.parametrize("text", ["", "none", "{" * 100_000, '{"a":' * 50_000, "[" * 100_000, '{"reasoning": "r"}', "{}" * 100_000])
def test_a_text_without_the_object_gives_none(text: str) -> None:
    assert json_object(text, ["reasoning", "personalized"]) is None


def test_cleaning_leaves_good_text_as_it_is() -> None:
    for text in ("", "a film", "我今天\n", "e\u0301 \U0001f468\u200d\U0001f469"):
        assert clean_text(text) == text
