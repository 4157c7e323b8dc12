"""Reads an HTTP response of an OpenAI-compatible endpoint: a ChatAnswer, or a Failure with its cause. Pure, for any status, headers and bytes.

Only the text decides whether there is an answer. Usage, ids and other bookkeeping are read if they can be read.
Reasoning (between tags such as `<think>` at the start of the text, `reasoning_content`, parts of type `thinking`) is kept apart from the answer.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from infra.endpoints.refusals import EndpointError, Meaning, meaning_of, refused_parameter
from schemas.drafts import FailureCause, Usage
from schemas.messages import MAX_TEXT_CHARS
from schemas.sameness import is_blank

#: Maximum bytes of a body. An answer takes at most 12 bytes a character, the rest is for reasoning.
MAX_BODY_BYTES = 4 << 20
#: Maximum events of a stream. `MAX_BODY_BYTES` of a real stream hold fewer: an event takes 150 bytes and more.
MAX_EVENTS = 1 << 15
#: Maximum pause that is taken from Retry-After.
MAX_RETRY_AFTER_S = 300.0
MAX_MESSAGE_CHARS = 300

NO_USAGE = Usage()
#: Usage beyond this is no count of tokens.
_MAX_TOKENS = 1 << 48
_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127, *range(128, 160)])
#: Reasoning tags of many models: `<think>`, `</think >`, `<seed:think>`, `[THINK]`, `◁think▷`, and gpt-oss's channels. In a closing tag one group is not
#: empty.
_TAG = re.compile(
    r"[<◁]\s{0,8}(/?)\s{0,8}(?:\w{1,16}:)?(?:think|thinking|thoughts?|reasoning)\s{0,8}[>▷]|\[(/?)THINK\]"
    r"|<\|channel\|>(?:analysis|commentary|(final))[^<]{0,64}<\|message\|>",
    re.IGNORECASE,
)
#: From one line that begins with a fence to the next: reasoning also names fences in its sentences, without closing them.
_FENCE = re.compile(r"^[ \t]*```[^`\n]*$.*?^[ \t]*```", re.DOTALL | re.MULTILINE)
_QUOTES = tuple("`'\"“”‘’")
#: Before a quotation mark that closes: reasoning may end with a quote, and the answer begin with one.
_ENDS_QUOTE = re.compile(r"[\w.,!?)…]")
_HTML = re.compile(rb"\s*<(?:!doctype html|html|head|body)", re.IGNORECASE)
_NULLS = ("None", "null")  # as LiteLLM writes a missing code
_WORD = re.compile(r"[\w.:/\[\]-]{1,64}", re.ASCII)


MAX_MODEL_CHARS = 200


@dataclass(frozen=True)
class ChatAnswer:
    """`text` is what the user may see, `reasoning` what the model wrote before it. `others` are the texts after the first, if several were requested."""

    text: str
    usage: Usage = NO_USAGE
    reasoning: str = ""
    others: tuple[str, ...] = ()
    model: str = field(default="", compare=False)  # that the reply names, at most MAX_MODEL_CHARS

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text, *self.others)


@dataclass(frozen=True)
class Failure:
    """Why a call gave no answer. `message` is the endpoint's text, which may quote the prompt: show it only for a prompt without a user's text."""

    meaning: Meaning
    cause: FailureCause
    status: int = 0
    after_s: float = 0.0
    code: str = ""
    param: str = ""
    message: str = field(default="", repr=False)

    @property
    def may_concern_every_prompt(self) -> bool:
        """Whether other prompts may fail too. For the short and harmless prompt of a health check it means that they do."""
        return self.meaning is not Meaning.PROMPT or self.cause in (FailureCause.PROMPT_REFUSED, FailureCause.PROMPT_TOO_LONG)

    def __str__(self) -> str:
        """Without the endpoint's message."""
        parts = [self.cause, f"status {self.status}" if self.status else "", self.code, f"parameter {self.param}" if self.param else ""]
        return ", ".join(part for part in parts if part)


def read_reply(status: int, headers: Mapping[str, str], body: bytes, n: int = 1) -> ChatAnswer | Failure:
    """`body` as it was sent, or its first `MAX_BODY_BYTES` + 1 bytes. Names of headers in any case. Never raises. `n`: number of requested texts."""
    lower = {name.lower(): value for name, value in headers.items()}
    content = _decompressed(body, lower.get("content-encoding", ""))
    is_success = 200 <= status < 300
    reading = _read_success(status, content, n) if is_success else _read_error(status, _parsed(content), is_page=_is_page(content))
    if isinstance(reading, Failure) and reading.meaning is Meaning.RETRY:
        return replace(reading, after_s=retry_after_s(lower))
    return reading


def _read_success(status: int, content: bytes, n: int) -> ChatAnswer | Failure:
    if len(content) > MAX_BODY_BYTES:
        return Failure(Meaning.PROMPT, FailureCause.ANSWER_TOO_LONG, status)
    if _is_page(content):
        return Failure(Meaning.RETRY, FailureCause.WEB_PAGE, status)
    data = _parsed(content)
    if data is None:
        data = _joined_events(content)
    if isinstance(data, dict) and isinstance(choices := data.get("choices"), list) and choices and isinstance(choices[0], dict):
        reading = _read_choices(status, choices[:n], _usage(data.get("usage")))
        if isinstance(reading, ChatAnswer):
            return replace(reading, model=model[:MAX_MODEL_CHARS] if isinstance(model := data.get("model"), str) else "")
        if not isinstance(data.get("error"), dict):
            return reading
    if (error := _error_of(data)) is not None:  # an error although the status says success
        return _read_error(error.status or 500, data)
    return Failure(Meaning.RETRY, FailureCause.UNREADABLE, status)


def _read_choices(status: int, choices: Sequence[Any], usage: Usage) -> ChatAnswer | Failure:
    """All choices with a text. The first one's failure if none has."""
    readings = [_read_choice(status, choice, usage) for choice in choices if isinstance(choice, dict)]
    answers = [reading for reading in readings if isinstance(reading, ChatAnswer)]
    return replace(answers[0], others=tuple(answer.text for answer in answers[1:])) if answers else readings[0]


def _read_choice(status: int, choice: dict[str, Any], usage: Usage) -> ChatAnswer | Failure:
    message = next((part for name in ("message", "delta") if isinstance(part := choice.get(name), dict)), {})
    content = message.get("content") if "content" in message else choice.get("text")
    text, thoughts, refusal = _parts(content)
    for name in ("reasoning_content", "reasoning"):
        thoughts += _parts(message.get(name))[0]
    reasoning, text = _split_reasoning(clean_text(text))
    reasoning = clean_text(thoughts) + reasoning
    finish = choice.get("finish_reason")
    if finish == "error":
        return _read_error(500, choice)
    if finish == "content_filter":
        return Failure(Meaning.PROMPT, FailureCause.FILTERED, status, code="content_filter")
    if len(text.strip()) > MAX_TEXT_CHARS:
        return Failure(Meaning.PROMPT, FailureCause.ANSWER_TOO_LONG, status)
    if is_blank(text):
        if refusal or message.get("refusal"):
            return Failure(Meaning.PROMPT, FailureCause.FILTERED, status, code="refusal")
        code = finish if isinstance(finish, str) and _WORD.fullmatch(finish) else ""
        return Failure(Meaning.PROMPT, FailureCause.NO_TEXT if is_blank(reasoning) else FailureCause.ONLY_REASONING, status, code=code)
    return ChatAnswer(text, usage, reasoning)


def clean_text(text: str) -> str:
    """Text that can be written as UTF-8: halves of surrogate pairs become U+FFFD. Without control characters other than tab and line ends."""
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").lstrip("\ufeff")
    return text.translate(_CONTROLS)


def json_object(text: str, fields: Iterable[str]) -> dict[str, Any] | None:
    """The first JSON object in `text` that has these fields: alone, in a code fence, behind a BOM, or with other text around it.

    Its texts may hold halves of surrogate pairs: see `clean_text`.
    """
    needed = set(fields)
    decoder = json.JSONDecoder(strict=False, parse_int=_int)
    start = -1
    for _ in range(_MAX_OBJECTS):
        start = text.find("{", start + 1)
        if start < 0:
            return None
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and needed <= value.keys():
            return value
    return None


#: Maximum number of braces of a text at which parsing is tried.
_MAX_OBJECTS = 64


def retry_after_s(headers: Mapping[str, str]) -> float:
    """The pause that the endpoint asks for: `retry-after-ms`, or `retry-after` in seconds or as a date (RFC 9110, section 10.2.3). 0 for anything else."""
    seconds = _number(headers.get("retry-after-ms", "")) / 1000 or _number(headers.get("retry-after", "")) or _seconds_until(headers.get("retry-after", ""))
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return 0.0 if math.isnan(number) else number


def _seconds_until(date: str) -> float:
    try:
        at = parsedate_to_datetime(date)
        return (at - datetime.now(UTC)).total_seconds() if at.tzinfo else 0.0
    except (ValueError, TypeError, IndexError, OverflowError):  # the standard library raises all of them for dates that it cannot read
        return 0.0


def _decompressed(body: bytes, encoding: str) -> bytes:
    """The body without gzip or deflate, at most `MAX_BODY_BYTES` + 1 bytes of it. Unchanged if it is not compressed after all."""
    names = [name.strip() for name in encoding.lower().split(",")]
    windows = [31] if body.startswith(b"\x1f\x8b") else [15, -15] if "deflate" in names else []
    for window in windows:
        try:
            return zlib.decompressobj(window).decompress(body, MAX_BODY_BYTES + 1)
        except zlib.error:
            continue
    return body


def _is_page(content: bytes) -> bool:
    return _HTML.match(content[:1000]) is not None


def _parsed(content: bytes) -> Any:
    """The body as JSON; None if it is no JSON. Ignores a BOM and replaces invalid bytes."""
    try:
        text = content.decode(json.detect_encoding(content), "replace").lstrip("\ufeff")
        return json.loads(text, strict=False, parse_int=_int)
    except (ValueError, RecursionError):
        return None


def _int(digits: str) -> float:
    """A float for long integers: Python raises an error for more than 4,300 digits."""
    return int(digits) if len(digits) <= 20 else float(digits)


def _joined_events(content: bytes) -> Any:
    """The completion in a stream of server-sent events, which some endpoints send unasked. None if it is no stream, or ends early."""
    if not content.lstrip().startswith((b"data:", b"event:", b"id:", b":")):
        return None
    texts: list[Any] = []
    reasoning: list[Any] = []
    finish, usage, is_done = None, None, False
    events = [line[5:].strip() for line in content.splitlines() if line.startswith(b"data:")]
    if len(events) > MAX_EVENTS:
        return None
    for data in events:
        if data == b"[DONE]":
            is_done = True
            break
        event = _parsed(data)
        if not isinstance(event, dict):
            continue
        if event.get("error"):
            return event
        usage = event.get("usage") or usage
        choices = event.get("choices")
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            continue
        choice = choices[0]
        message = next((part for name in ("delta", "message") if isinstance(part := choice.get(name), dict)), {})
        texts.append(message.get("content") or choice.get("text"))
        reasoning.append(message.get("reasoning_content") or message.get("reasoning"))
        finish = choice.get("finish_reason") or finish
    if not (is_done or finish):
        return None
    texts, reasoning = _flat(texts), _flat(reasoning)
    return {"choices": [{"message": {"content": texts, "reasoning_content": reasoning}, "finish_reason": finish}], "usage": usage}


def _flat(values: Iterable[Any]) -> list[Any]:
    return [part for value in values if value is not None for part in (value if isinstance(value, list) else [value])]


def _parts(content: Any) -> tuple[str, str, str]:
    """Text, reasoning and refusal of a message's content: a text, one part, or a list of parts. Parts of other types are skipped."""
    if isinstance(content, str):
        return content, "", ""
    found: dict[str, list[str]] = {"text": [], "reasoning": [], "refusal": []}
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            found["text"].append(part)
        elif isinstance(part, dict):
            kind = part.get("type") or "text"
            into, names = _PART_TYPES.get(kind if isinstance(kind, str) else "", ("", ()))
            if into:
                found[into] += [text for name in names for text in _texts(part.get(name))][:1]
    return "".join(found["text"]), "".join(found["reasoning"]), "".join(found["refusal"])


#: Types of content parts: what they hold, and the fields that may hold it.
_PART_TYPES: dict[str, tuple[str, Sequence[str]]] = {
    "text": ("text", ("text", "content")),
    "output_text": ("text", ("text", "content")),
    "thinking": ("reasoning", ("thinking", "text")),
    "reasoning": ("reasoning", ("reasoning", "text")),
    "reasoning_text": ("reasoning", ("text",)),
    "reasoning.text": ("reasoning", ("text",)),
    "refusal": ("refusal", ("refusal", "text")),
}


def _texts(value: Any) -> list[str]:
    """The text of one field of a part. Some endpoints nest it once more, as `{"value": …}` or as a list of text parts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [value["value"]] if isinstance(value.get("value"), str) else []
    if isinstance(value, list):
        return ["".join(part if isinstance(part, str) else part["text"] for part in value if isinstance(part, str) or _is_text(part))]
    return []


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _split_reasoning(text: str) -> tuple[str, str]:
    """The reasoning at the start of a text, and the rest.

    Reasoning begins with an opening tag and ends where as many tags have closed as have opened: tags may be nested. If they never balance, it ends at the last
    closing tag; without one, all of the text is reasoning. A closing tag that nothing opens ends it too: a chat template has written the opening one.
    Tags in quotes or in a code fence are no tags, and those after the start of the answer are part of the answer. If reasoning would not end, they are tags:
    it may end in a quote before an answer in quotes, or leave a fence open.
    """
    thoughts: list[str] = []
    answer_at, begin, depth = 0, -1, 0  # `begin`: of the reasoning that is open; -1 in the answer
    is_answer = False
    last_closing: re.Match[str] | None = None
    for tag in _tags(text):
        is_closing = any(tag.groups())
        if begin < 0 and not is_answer:
            is_answer = not is_blank(text[answer_at : tag.start()])
        if not is_closing:
            if depth == 0 and not is_answer:
                begin, last_closing = tag.end(), None
            depth += 1
        elif depth > 0:
            depth, last_closing = depth - 1, tag
            if depth == 0 and begin >= 0:
                thoughts.append(text[begin : tag.start()])
                answer_at, begin = tag.end(), -1
        elif not thoughts or not is_answer:
            thoughts.append(text[answer_at : tag.start()])
            answer_at, is_answer = tag.end(), False
        if is_answer and thoughts:
            break
    if begin >= 0:
        if last_closing is None:
            last_closing = next((tag for tag in reversed(list(_TAG.finditer(text, begin))) if any(tag.groups())), None)
        thoughts.append(text[begin : last_closing.start() if last_closing else None])
        answer_at = last_closing.end() if last_closing else len(text)
    return "".join(thoughts), text[answer_at:]


def _tags(text: str) -> Iterator[re.Match[str]]:
    """The reasoning tags of a text, without those in quotes or in a code fence."""
    if _TAG.search(text) is None:
        return
    fences = (match.span() for match in _FENCE.finditer(text))
    begin, end = 0, 0
    for tag in _TAG.finditer(text):
        while end <= tag.start():
            begin, end = next(fences, (len(text), len(text)))
        is_quoted = text[tag.start() - 1 : tag.start()] in _QUOTES and text[tag.end() : tag.end() + 1] in _QUOTES
        is_quoted = is_quoted and not _ENDS_QUOTE.match(text, max(0, tag.start() - 2))
        if not is_quoted and not begin <= tag.start() < end:
            yield tag


def _usage(value: Any) -> Usage:
    counts = value if isinstance(value, dict) else {}
    return Usage(prompt_tokens=_tokens(counts.get("prompt_tokens")), completion_tokens=_tokens(counts.get("completion_tokens")))


def _tokens(value: Any) -> int:
    is_count = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKENS and value == int(value)
    return int(value) if is_count else 0


# Errors


def _read_error(status: int, data: Any, *, is_page: bool = False) -> Failure:
    error = _error_of(data) or EndpointError()
    meaning, cause = meaning_of(status, error)
    if cause is FailureCause.SERVER_ERROR and is_page:
        cause = FailureCause.WEB_PAGE
    return Failure(meaning, cause, status, code=error.code, param=refused_parameter(error) or error.param, message=error.message)


def _error_of(data: Any) -> EndpointError | None:
    """The error object of a body, in the forms of OpenAI, Azure, vLLM, OpenRouter, Google, Anthropic, Ollama and FastAPI. None if there is none."""
    if isinstance(data, list):
        data = next((part for part in data if isinstance(part, dict)), None)
    if not isinstance(data, dict):
        return None
    error = data.get("error") or data.get("errors") or (data if data.keys() & {"detail", "message", "code", "statusCode"} else None)
    if isinstance(error, list):
        error = error[0] if error else None
    if isinstance(error, str):  # its codes are beside it, or it is the code itself
        error = {name: data.get(name) for name in ("code", "type", "param")} | {"status": data.get("error_type"), "message": error}
    if not isinstance(error, dict):
        return None
    details = [part for name in ("details", "detail") if isinstance(parts := error.get(name), list) for part in parts[:10] if isinstance(part, dict)]
    metadata = error.get("metadata")
    codes = [error.get(name) for name in ("code", "type", "status")] + [part.get(name) for part in details for name in ("reason", "type")]
    words = [code for code in codes if isinstance(code, str) and _WORD.fullmatch(code) and code not in _NULLS and not code.isdigit()]
    alone = [text for text in [data.get("error")] if isinstance(text, str) and _WORD.fullmatch(text)]  # not shown: it may quote a prompt
    located: list[Any] = next((part["loc"] for part in details if isinstance(part.get("loc"), list)), [])
    param = error.get("param") or next((part for part in located if isinstance(part, str) and part != "body"), None)
    message = error.get("message") or error.get("detail") or (details[0].get("msg") if details else None)
    number = next((code for code in (error.get("code"), error.get("statusCode"), error.get("status")) if isinstance(code, int)), 0)
    return EndpointError(
        codes=frozenset(words + alone),
        code=next(iter(words), ""),
        param=param if isinstance(param, str) and _WORD.fullmatch(param) and param not in _NULLS else "",
        message=" ".join(clean_text(message[: 4 * MAX_MESSAGE_CHARS]).split())[:MAX_MESSAGE_CHARS] if isinstance(message, str) else "",
        status=number if isinstance(number, int) and 400 <= number < 600 else 0,
        is_flagged=isinstance(metadata, dict) and bool(metadata.keys() & {"flagged_input", "reasons"}),
    )
