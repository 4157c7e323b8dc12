"""Kinds of bad answers of an endpoint, each made from a good one: strange but usable, useless for this prompt, worth another try, or a refusal."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.drafts import FailureCause

#: The reasoning in bad answers. No user may see it.
REASONING = "retouch-lab-reasoning"
HUGE_BYTES = 6 << 20

Completion = dict[str, Any]


@dataclass(frozen=True)
class BadAnswer:
    """One HTTP answer. `cut`: the connection breaks after the body."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass(frozen=True)
class BadAnswerKind:
    """`ends_as`: the cause with which this answer alone ends a query; None if its text counts, or if the query is tried again."""

    name: str
    make: Callable[[Completion], BadAnswer]
    ends_as: FailureCause | None = None


def _completion(change: Callable[[Completion], None]) -> Callable[[Completion], BadAnswer]:
    """The good completion with a change."""

    def make(good: Completion) -> BadAnswer:
        body = copy.deepcopy(good)
        change(body)
        return BadAnswer(json.dumps(body).encode())

    return make


def _message(**fields: Any) -> Callable[[Completion], BadAnswer]:
    """The good completion with other fields of its message; `{}` in a text stands for the good text."""

    def change(body: Completion) -> None:
        message = body["choices"][0]["message"]
        text = message["content"]
        message.update({name: value.replace("{}", text) if isinstance(value, str) else value for name, value in fields.items()})

    return _completion(change)


def _usage(value: Any) -> Callable[[Completion], BadAnswer]:
    return _completion(lambda body: body.update(usage=value))


def _choice(**fields: Any) -> Callable[[Completion], BadAnswer]:
    return _completion(lambda body: body["choices"][0].update(fields))


def _parts(good: Completion) -> BadAnswer:
    text = good["choices"][0]["message"]["content"]
    parts = [{"type": "thinking", "thinking": REASONING}, {"type": "text", "text": text[:1]}, {"type": "text", "text": text[1:]}]
    return _message(content=parts)(good)


def _stream(good: Completion) -> BadAnswer:
    text = good["choices"][0]["message"]["content"]
    events = [{"choices": [{"delta": {"reasoning_content": REASONING}}]}, *({"choices": [{"delta": {"content": part}}]} for part in (text[:1], text[1:]))]
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return BadAnswer(("".join(lines) + "data: [DONE]\n\n").encode(), headers={"Content-Type": "text/event-stream"})


def _fixed(body: bytes, status: int = 200, *, cut: bool = False, **headers: str) -> Callable[[Completion], BadAnswer]:
    return lambda good: BadAnswer(body, status, {name.replace("_", "-"): value for name, value in headers.items()}, cut)


def _error(status: int, code: str = "", *, http_status: int | None = None, **fields: Any) -> Callable[[Completion], BadAnswer]:
    body = {"error": {"message": "the lab says no", "type": "invalid_request_error", "code": code or None} | fields}
    return _fixed(json.dumps(body).encode(), http_status or status)


KINDS = (
    # The text counts.
    BadAnswerKind("usage-null", _usage({"prompt_tokens": None})),
    BadAnswerKind("usage-strange", _usage({"prompt_tokens": -1, "completion_tokens": 3.5})),
    BadAnswerKind("usage-missing", _usage("many")),
    BadAnswerKind("half-a-surrogate-pair", _message(content="{} \ud83d")),
    BadAnswerKind("control-characters", _message(content="{}\x00\x1b")),
    BadAnswerKind("parts", _parts),
    BadAnswerKind("reasoning", _message(content=f"<think>{REASONING}</think>{{}}")),
    BadAnswerKind("reasoning-nested", _message(content=f"< Thinking ><think>so</think>{REASONING}</thinking >{{}}")),
    BadAnswerKind("reasoning-unopened", _message(content=f"{REASONING}</think>{{}}")),
    BadAnswerKind("reasoning-field", _message(reasoning_content=REASONING)),
    BadAnswerKind("more-choices", _completion(lambda body: body["choices"].append(None))),
    BadAnswerKind("stream", _stream),
    BadAnswerKind("byte-order-mark", lambda good: BadAnswer(b"\xef\xbb\xbf" + json.dumps(good).encode())),
    BadAnswerKind("gzip", lambda good: BadAnswer(gzip.compress(json.dumps(good).encode()), headers={"Content-Encoding": "gzip"})),
    # This prompt gets no answer.
    BadAnswerKind("no-content", _message(content=None), FailureCause.NO_TEXT),
    BadAnswerKind("invisible", _message(content="\u200b\n"), FailureCause.NO_TEXT),
    BadAnswerKind("only-tools", _message(content=None, tool_calls=[{"id": "1", "type": "function"}]), FailureCause.NO_TEXT),
    BadAnswerKind("only-reasoning", _message(content=f"<think>{REASONING}"), FailureCause.ONLY_REASONING),
    BadAnswerKind("filtered", _choice(finish_reason="content_filter"), FailureCause.FILTERED),
    BadAnswerKind("refusal", _message(content=None, refusal="no"), FailureCause.FILTERED),
    BadAnswerKind("too-long", _message(content="long " * 10_000), FailureCause.ANSWER_TOO_LONG),
    BadAnswerKind("huge", _fixed(b" " * HUGE_BYTES), FailureCause.ANSWER_TOO_LONG),
    BadAnswerKind("context-length", _error(400, "context_length_exceeded"), FailureCause.PROMPT_TOO_LONG),
    BadAnswerKind("unknown-400", _error(400, "something_new"), FailureCause.PROMPT_REFUSED),
    # Worth another try.
    BadAnswerKind("no-json", _fixed(b'{"choices": [{"mess')),
    BadAnswerKind("no-completion", _fixed(b"[]")),
    BadAnswerKind("binary", _fixed(b"\x00\xff\xfe" * 100)),
    BadAnswerKind("nested", _fixed(b"[" * 100_000)),
    BadAnswerKind("web-page", _fixed(b"<!DOCTYPE html><html>Bad gateway</html>", Content_Type="text/html")),
    BadAnswerKind("error-with-200", _error(500, http_status=200)),
    BadAnswerKind("500", _fixed(b"", 500)),
    BadAnswerKind("503-odd-date", _fixed(b"", 503, Retry_After="Mon, 99 Foo 99999 25:61:61 +9999")),
    BadAnswerKind("503-nan", _fixed(b"", 503, Retry_After="nan")),
    BadAnswerKind("429", _fixed(b"", 429, Retry_After="0.5")),
    BadAnswerKind("cut", _fixed(b'{"choices"', cut=True)),
    # May concern every prompt. Either the health check passes, or the worker waits and tries again.
    BadAnswerKind("401", _error(401, "invalid_api_key")),
    BadAnswerKind("402", _error(402)),
    BadAnswerKind("403", _error(403)),
    BadAnswerKind("404-model", _error(404, "model_not_found")),
    BadAnswerKind("429-quota", _error(429, "insufficient_quota")),
    BadAnswerKind("redirect", _fixed(b"", 307, Location="http://elsewhere.example/")),
    # Later requests do not contain the parameter.
    BadAnswerKind("no-max-tokens", _error(400, "unsupported_parameter", param="max_tokens")),
    BadAnswerKind("no-temperature", _error(400, "unsupported_value", param="temperature")),
)
