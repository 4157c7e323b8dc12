from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from infra.checkpoints.chat_templates import MAX_CHARS, MAX_WIDTH, why_refused

ROOT = Path(__file__).resolve().parents[4]

#: The template of Qwen2.5, shortened: every construct occurs once.
QWEN = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- else %}{{- 'You are Qwen.' }}{%- endif %}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "tool" and (loop.index0 == 0 or messages[loop.index0 - 1].role != "tool") %}
        {%- set tool_call = message.function %}{{- '{"name": "' }}{{- tool_call.name }}{{- tool_call.arguments | tojson }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def _installed() -> list[Path]:
    """Real templates: our own, and those of installed packages."""
    trl = find_spec("trl")
    assert trl and trl.origin
    return sorted([*(ROOT / "pico").rglob("*.jinja"), *(Path(trl.origin).parent / "chat_templates").glob("*.jinja")])


def test_templates_of_real_models_pass() -> None:
    templates = _installed()
    assert len(templates) > 20
    assert {path.name: why for path in templates if (why := why_refused(path.read_text()))} == {}
    assert why_refused(QWEN) is None


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("\n{{ messages.__class__ }}", "line 2: the attribute '__class__'"),
        ("{{ messages['__class__'] }}", "line 1: '__class__', which names a hidden attribute"),
        ("{{ messages | map(attribute='x.__init__') | list }}", "line 1: 'x.__init__', which names a hidden attribute"),
        ("{{ messages | attr('x') }}", "line 1: the filter 'attr'"),
        ("{{ ('%999999999d' | format(1)) }}", "line 1: the filter 'format'"),
        ("{{ '%999999999d' % 1 }}", "line 1: formatting by %"),
        ("{% set x = '%400000000d' %}{{ x % 1 }}", "line 1: '%4' in a template that uses %"),
        ("{% set x %}%*d{% endset %}{{ x % (400000000, 1) }}", "line 1: '%*' in a template that uses %"),
        ("{{ ('%' ~ '400000000d') % 1 }}", "line 1: '%' in a template that uses %"),
        ("{% set x = '%(n)-400000000d' %}{{ x % messages[0] }}", "line 1: '%(n)-4' in a template that uses %"),
        ("{% set range = 'a'.ljust %}{{ range(400000000) }}", "line 1: a new definition of 'range'"),
        ("{% for dict in ['a'.ljust] %}{{ dict(400000000) }}{% endfor %}", "line 1: a new definition of 'dict'"),
        ("{% macro range(x) %}{% endmacro %}", "line 1: a new definition of 'range'"),
        ("{% macro show(range) %}{{ range(400000000) }}{% endmacro %}{{ show(x) }}", "line 1: a new definition of 'range'"),
        ("{% macro show() %}{% endmacro %}{% set show = x %}{{ show(400000000) }}", "line 1: a new definition of 'show'"),
        ("{{ {'upper': 'a'.ljust}.upper(400000000) }}", "line 1: the attribute 'ljust'"),
        ("{{ {'upper': 'a'['ljust']}.upper(400000000) }}", "line 1: 'ljust', which makes texts of any length"),
        ("{{ '{0.x}'.format(messages) }}", "line 1: a call of .format()"),
        ("{{ ['%999999999d'] | map('format', 1) | list }}", "line 1: map of format"),
        ("{{ messages | map('_' ~ 'x') | list }}", "line 1: map of a computed name"),
        ("{{ messages | map(*x) | list }}", "line 1: map of a computed name"),
        ("{{ 'a' | indent(999999999, true) }}", f"line 1: a width of indent other than a number up to {MAX_WIDTH}"),
        ("{{ messages | tojson(indent=x) }}", f"line 1: a width of tojson other than a number up to {MAX_WIDTH}"),
        ("{{ 'a' * 1000000000 }}", "line 1: a multiplication is not allowed"),
        ("{{ 9 ** 9 ** 9 }}", "line 1: a power is not allowed"),
        ("{% import '/etc/passwd' as x %}", "line 1: import is not allowed"),
        ("{% from 'x' import y %}", "line 1: import is not allowed"),
        ("{% include 'x' %}", "line 1: include is not allowed"),
        ("{% extends 'x' %}", "line 1: extends is not allowed"),
        ("{% set ns = cycler %}", "line 1: the name 'cycler'"),
        ("{{ lipsum.x }}", "line 1: the name 'lipsum'"),
        ("{{ open('/etc/passwd') }}", "line 1: a call of 'open'"),
        ("{{ messages.pop() }}", "line 1: a call of .pop()"),
        ("{{ messages[0]() }}", "line 1: a call of a computed value"),
        ("{% if %}", "not a Jinja template: Expected an expression, got 'end of statement block'"),
        ("{{ " + "(" * 5000 + " }}", "nested too deeply"),
        ("{{ " + "9" * 5000 + " }}", "not a Jinja template: a number is too long"),
        (" " * (MAX_CHARS + 1), f"{MAX_CHARS + 1} characters, {MAX_CHARS} at most"),
    ],
)
def test_features_that_no_conversation_needs_are_refused(template: str, reason: str) -> None:
    assert why_refused(template) == reason


def test_percent_signs_and_remainders_each_by_itself_are_allowed() -> None:
    assert why_refused("{{ strftime_now('%d %b %Y') }}{% if loop.index0 % 2 == 0 %}{{ ns.index % 2 }}{% endif %}") is None
    assert why_refused("{{ 'Be 100% sure' }} and 50%") is None


def test_macros_and_generation_blocks_are_allowed() -> None:
    template = "{% macro show(m) %}{{ m.content | trim }}{% endmacro %}{% for m in messages %}{% generation %}{{ show(m) }}{% endgeneration %}{% endfor %}"
    assert why_refused(template) is None


def test_attributes_filters_and_layout_of_usual_templates_are_allowed() -> None:
    template = "{{ messages | map(attribute='role') | map('upper') | join }}{{ tools | tojson(indent=4, separators=(',', ': ')) | indent(2, true) }}"
    assert why_refused(template) is None
