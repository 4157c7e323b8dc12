"""Checks chat templates, which are Jinja programs that run whenever a conversation becomes a prompt. Only an allow-list of Jinja passes.

A template is parsed, never run, and refused for the first node that is not on the list. Libraries then render it in Jinja's sandbox. Tests check that the
templates of TRL pass. Long loops, and texts that grow in a loop, are not detected.
Pinning the first checkpoint's template would not be enough: a first checkpoint, or one registered by hand, is rendered before any comparison.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

_words = str.split
MAX_CHARS = 200_000
#: Functions that may be called, besides the template's own macros.
FUNCTIONS = frozenset({"raise_exception", "namespace", "range", "strftime_now", "dict", "caller"})
#: Methods that may be called. Not `format`, which reads attributes, and none that makes texts of any length.
METHODS = frozenset(
    _words(
        "strip lstrip rstrip split rsplit splitlines partition rpartition startswith endswith removeprefix removesuffix upper lower title capitalize "
        "isdigit isalpha isspace replace join find rfind index count get items keys values"
    )
)
FILTERS = frozenset(
    _words(
        "abs capitalize count d default dictsort e escape first float groupby indent int items join last length list lower map max min reject "
        "rejectattr replace reverse round safe select selectattr sort string sum title tojson trim unique upper wordcount"
    )
)
#: Filters whose first argument names another filter, and filters whose argument is a number of spaces.
_BY_NAME, _WIDE, MAX_WIDTH = frozenset({"map"}), frozenset({"indent", "tojson"}), 16
#: Methods that must not be read either, because a template could call them under another name.
_FORMATS = frozenset({"format", "format_map"})
_LONG = frozenset(_words("ljust rjust center zfill expandtabs"))
#: A width for `%`, or the beginning of one in a text that is concatenated.
_PERCENT = re.compile(r"%(\([^)]*\))?[-#0+ .]*([\d*]|\Z)")
#: Jinja's globals that make objects with methods, or texts of any length.
_NAMES = frozenset({"cycler", "joiner", "lipsum", "self"})
#: Nodes that no conversation needs: other templates, and operators that make large values.
_REFUSED: dict[type[nodes.Node], str] = {
    nodes.Import: "import",
    nodes.FromImport: "import",
    nodes.Include: "include",
    nodes.Extends: "extends",
    nodes.Pow: "a power",
    nodes.Mul: "a multiplication",
}


def why_refused(template: str) -> str | None:
    """The first forbidden node of a chat template, with its line; None for a template that may be used."""
    if len(template) > MAX_CHARS:
        return f"{len(template)} characters, {MAX_CHARS} at most"
    try:
        parsed = Environment(autoescape=True, extensions=[_Generation, loopcontrols]).parse(template)
        macros = {macro.name for macro in parsed.find_all(nodes.Macro)}
        has_mod = parsed.find(nodes.Mod) is not None
        return next((f"line {node.lineno}: {reason}" for node in _walk(parsed) if (reason := _forbidden(node, macros) or (has_mod and _width_of(node)))), None)
    except TemplateError as error:
        return f"not a Jinja template: {error}"
    except RecursionError:
        return "nested too deeply"
    except ValueError:  # Python limits the digits of a number
        return "not a Jinja template: a number is too long"


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text in templates for training."""

    tags = {"generation"}  # noqa: RUF012  # Jinja declares it for instances

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _forbidden(node: nodes.Node, macros: set[str]) -> str | None:
    """Why this node is forbidden; ignores the nodes below it."""
    match node:
        case nodes.Getattr(attr=name) if name.startswith("_"):
            return f"the attribute {name!r}"
        case nodes.Const(value=str(text)) if any(part.startswith("_") and part.strip("_") for part in text.split(".")):
            return f"{text!r}, which names a hidden attribute"  # x["__class__"], map(attribute="y.__class__")
        case nodes.Const(value=str(text)) if _LONG & set(text.split(".")):
            return f"{text!r}, which makes texts of any length"
        case nodes.Name(name=name, ctx="store" | "param") | nodes.Macro(name=name) if name in FUNCTIONS or (name in macros and isinstance(node, nodes.Name)):
            return f"a new definition of {name!r}"
        case nodes.Name(name=name) if name in _NAMES or name.startswith("__"):
            return f"the name {name!r}"
        case nodes.Mod(left=nodes.Const(value=str())):
            return "formatting by %"
        case nodes.Filter(name=name) if name not in FILTERS:
            return f"the filter {name!r}"
        case nodes.Filter(name=name) if name in _BY_NAME and (applied := _applied(node)) not in FILTERS - _BY_NAME - _WIDE:
            return f"{name} of {applied}"
        case nodes.Filter(name=name) if name in _WIDE and not _is_narrow(node):
            return f"a width of {name} other than a number up to {MAX_WIDTH}"
        case nodes.Call(node=nodes.Name(name=name)) if name not in FUNCTIONS | macros:
            return f"a call of {name!r}"
        case nodes.Call(node=nodes.Getattr(attr=name)) if name not in METHODS:
            return f"a call of .{name}()"
        case nodes.Getattr(attr=name) if name in _FORMATS | _LONG:
            return f"the attribute {name!r}"
        case nodes.Call(node=target) if not isinstance(target, nodes.Name | nodes.Getattr):
            return "a call of a computed value"
        case _:
            refused = _REFUSED.get(type(node))
            return f"{refused} is not allowed" if refused else None


def _width_of(node: nodes.Node) -> str | None:
    """A width in a text that `%` may format. `%` may also be a remainder, which the parser cannot tell."""
    match node:
        case nodes.Const(value=str(text)) | nodes.TemplateData(data=text) if width := _PERCENT.search(text):
            return f"{width[0]!r} in a template that uses %"
        case _:
            return None


def _applied(call: nodes.Filter) -> str:
    """The filter that `map` applies; `string`, which is allowed, if it takes an attribute."""
    if call.dyn_args is not None or call.dyn_kwargs is not None:
        return "a computed name"
    if not call.args:
        return "string"
    applied = call.args[0]
    return str(applied.value) if isinstance(applied, nodes.Const) else "a computed name"


def _is_narrow(call: nodes.Filter) -> bool:
    arguments = [*call.args, *(keyword.value for keyword in call.kwargs)]
    parts = [part for value in arguments for part in (value.items if isinstance(value, nodes.Tuple) else [value])]
    return call.dyn_args is None and call.dyn_kwargs is None and all(isinstance(part, nodes.Const) and _width(part.value) <= MAX_WIDTH for part in parts)


def _width(value: object) -> int:
    return value if isinstance(value, int) else len(value) if isinstance(value, str) else 0
