"""Any status, headers and bytes give an answer or a failure, never an error: 10,000 bodies, most of them mutations of good ones."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.endpoints.refusals import Meaning
from infra.endpoints.reply import MAX_RETRY_AFTER_S, ChatAnswer, read_reply
from schemas.drafts import Draft, FailureCause
from schemas.messages import MAX_TEXT_CHARS
from tests.support.worker_messages import make_query

BODIES = 10_000
#: Bodies of one example: the drawn one, and mutations of its bytes under other statuses and headers. Drawing costs more than reading.
VARIANTS = 8


def _completion(content: Any, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **fields}, "finish_reason": "stop"}
    return {"id": "x", "created": 1, "model": "m", "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}


GOOD: list[Any] = [
    _completion("Comedy"),
    _completion("<think>dark</think>Comedy \ud83d\ude00"),
    _completion([{"type": "text", "text": "Com"}, {"type": "thinking", "thinking": [{"type": "text", "text": "x"}]}, "edy"], reasoning_content="dark"),
    {"error": {"message": "no", "type": "invalid_request_error", "param": "temperature", "code": "unsupported_value"}},
    {"error": {"message": "no", "code": 402, "metadata": {"reasons": ["x"]}, "details": [{"reason": "API_KEY_INVALID"}]}},
    {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "no"}]},
]
STREAM = b"".join(b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n" for text in ("Com", "edy")) + b"data: [DONE]\n\n"
PIECES = [b"", b"\x00", b"\xff\xfe", b"\xed\xa0\xbd", b'"', b"}", b"[", b"data:", b"null", b"1e999", b"\\ud83d", b"</think>", b"\n\n", b"\x1f\x8b\x08"]
BYTES = [json.dumps(body).encode() for body in GOOD] + [STREAM, gzip.compress(json.dumps(GOOD[0]).encode()), b"<!doctype html><html></html>", b"\xef\xbb\xbf{}"]

numbers = st.sampled_from([0, -1, 3.5, 1e308, float("inf"), float("nan"), 10**30, 2**63, True])
texts = st.sampled_from(["", "Comedy", "\ud83d", "\x00", "</think>", "<think>", "\u200b", "content_filter", "insufficient_quota", "error", "{"])
scalars = st.one_of(st.none(), numbers, texts, st.text(max_size=5))
names = st.sampled_from(["choices", "message", "content", "delta", "text", "type", "error", "code", "usage", "reasoning", "finish_reason", "detail", "loc"])
values = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)), max_leaves=5)
STATUSES = [*[200] * 10, 201, 302, 400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 503, -1, 0, 100, 600, 999]
HEADERS = ["gzip", "deflate", "br, gzip", "nan", "1e400", "-1", "Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 99", "1 Jan 99999 0:0", "\x00\udcff", ""]


def _changed(value: Any, path: list[int], new: Any) -> Any:
    """`value` with the part that `path` leads to replaced by `new`."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    where = path[0] % len(value)
    if isinstance(value, list):
        return [_changed(part, path[1:], new) if number == where else part for number, part in enumerate(value)]
    return {name: _changed(part, path[1:], new) if number == where else part for number, (name, part) in enumerate(value.items())}


def _spliced(body: bytes, rng: random.Random) -> bytes:
    """`body` with a few bytes cut out, and others put in."""
    at = rng.randint(0, len(body))
    return body[:at] + rng.choice(PIECES) + body[at + rng.choice((0, 0, 1, 1, 2, 9, 1000)) :]


changed = st.builds(_changed, st.sampled_from(GOOD), st.lists(st.integers(0, 5), max_size=6), values)
in_json = st.one_of(changed, changed, values).map(lambda value: json.dumps(value).encode())
bodies = st.one_of(in_json, in_json, st.sampled_from(BYTES), st.binary(max_size=40))

seen: Counter[str] = Counter()


@given(bodies, st.integers(0, 1 << 32))
@settings(max_examples=BODIES // VARIANTS)
def _read_variants(body: bytes, seed: int) -> None:
    rng = random.Random(seed)
    for variant in range(VARIANTS):
        headers = {name: rng.choice(HEADERS) for name in ("Retry-After", "retry-after-ms", "Content-Encoding") if rng.random() < 0.3}
        _read(rng.choice(STATUSES), headers, _spliced(body, rng) if variant > VARIANTS / 2 else body)


def _read(status: int, headers: dict[str, str], body: bytes) -> None:
    reading = read_reply(status, headers, body)
    seen["given"] += 1
    if isinstance(reading, ChatAnswer):
        seen["answer"] += 1
        assert 0 < len(reading.text.strip()) <= MAX_TEXT_CHARS
        draft = Draft(query=make_query(), answer=reading.text.strip(), base_model="m", base_ms=1.0, usage=reading.usage)
        assert Draft.from_bytes(draft.to_bytes()) == draft
        reading.reasoning.encode()
    else:
        seen[Meaning(reading.meaning)] += 1
        assert reading.cause in set(FailureCause)
        assert 0 <= reading.after_s <= MAX_RETRY_AFTER_S
        assert str(reading).isascii() and str(reading).isprintable()
        reading.message.encode()


@pytest.mark.timeout(600)  # 10 s alone
def test_any_answer_of_an_endpoint_has_a_meaning() -> None:
    seen.clear()
    _read_variants()
    assert seen["given"] == sum(count for kind, count in seen.items() if kind != "given") >= BODIES
    assert all(seen[kind] >= 100 for kind in ("answer", *Meaning)), seen
