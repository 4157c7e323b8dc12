"""Chat templates of checkpoints: Jinja programs that run wherever a conversation becomes a prompt, so only what conversations need is let in.

Libraries render them in Jinja's sandbox; this is the lock before that one: a template is parsed, never run, and refused for the first thing in it
that has no place in a conversation. Checked against the templates that TRL ships (tests). Loops over long ranges, and texts that grow in a loop, are not
found out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

_words = str.split
MAX_CHARS = 200_000
#: What may be called by name; a template's own macros come on top.
FUNCTIONS = frozenset({"raise_exception", "namespace", "range", "strftime_now", "dict", "caller"})
#: What may be called on a value. Not `format`, which reaches attributes, nor what makes texts of any length.
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
#: Filters whose first argument is the name of another one, and those that write as many blanks as an argument says.
_BY_NAME, _WIDE, MAX_WIDTH = frozenset({"map"}), frozenset({"indent", "tojson"}), 16
#: Methods of texts that must not even be handed on, to be called by another name.
_FORMATS = frozenset({"format", "format_map"})
_LONG = frozenset(_words("ljust rjust center zfill expandtabs"))
#: A width for `%`, or the beginning of one that is put together.
_PERCENT = re.compile(r"%(\([^)]*\))?[-#0+ .]*([\d*]|\Z)")
#: Jinja's own globals that make objects with methods of their own, or texts of any length.
_NAMES = frozenset({"cycler", "joiner", "lipsum", "self"})
#: Other files, other templates, powers: nothing a conversation needs.
_REFUSED: dict[type[nodes.Node], str] = {
    nodes.Import: "import",
    nodes.FromImport: "import",
    nodes.Include: "include",
    nodes.Extends: "extends",
    nodes.Pow: "a power",
    nodes.Mul: "a multiplication",
}


def why_refused(template: str) -> str | None:
    """What in a chat template has no place there, with its line; None for a template that may be used."""
    if len(template) > MAX_CHARS:
        return f"{len(template)} characters, {MAX_CHARS} at most"
    try:
        parsed = Environment(autoescape=True, extensions=[_Generation, loopcontrols]).parse(template)
        macros = {macro.name for macro in parsed.find_all(nodes.Macro)}
        has_mod = parsed.find(nodes.Mod) is not None
        return next((f"line {node.lineno}: {found}" for node in _walk(parsed) if (found := _wrong(node, macros) or (has_mod and _width_of(node)))), None)
    except TemplateError as error:
        return f"not a Jinja template: {error}"
    except RecursionError:
        return "nested too deeply"
    except ValueError:  # more digits than Python takes for a number
        return "not a Jinja template: a number is too long"


class _Generation(Extension):
    """`{% generation %}` marks what the assistant wrote, in templates made for training."""

    tags = {"generation"}  # noqa: RUF012  # Jinja declares it for instances

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _wrong(node: nodes.Node, macros: set[str]) -> str | None:
    """What is wrong with this node, not with those below it."""
    match node:
        case nodes.Getattr(attr=name) if name.startswith("_"):
            return f"the attribute {name!r}"
        case nodes.Const(value=str(text)) if any(part.startswith("_") and part.strip("_") for part in text.split(".")):
            return f"{text!r}, which names what is hidden"  # x["__class__"], map(attribute="y.__class__")
        case nodes.Const(value=str(text)) if _LONG & set(text.split(".")):
            return f"{text!r}, which makes texts of any length"
        case nodes.Name(name=name, ctx="store" | "param") | nodes.Macro(name=name) if name in FUNCTIONS or (name in macros and isinstance(node, nodes.Name)):
            return f"another meaning of {name!r}"
        case nodes.Name(name=name) if name in _NAMES or name.startswith("__"):
            return f"the name {name!r}"
        case nodes.Mod(left=nodes.Const(value=str())):
            return "formatting by %"
        case nodes.Filter(name=name) if name not in FILTERS:
            return f"the filter {name!r}"
        case nodes.Filter(name=name) if name in _BY_NAME and (other := _applied(node)) not in FILTERS - _BY_NAME - _WIDE:
            return f"{name} of {other}"
        case nodes.Filter(name=name) if name in _WIDE and not _is_narrow(node):
            return f"a width of {name} other than a number up to {MAX_WIDTH}"
        case nodes.Call(node=nodes.Name(name=name)) if name not in FUNCTIONS | macros:
            return f"a call of {name!r}"
        case nodes.Call(node=nodes.Getattr(attr=name)) if name not in METHODS:
            return f"a call of .{name}()"
        case nodes.Getattr(attr=name) if name in _FORMATS | _LONG:
            return f"the attribute {name!r}"
        case nodes.Call(node=target) if not isinstance(target, nodes.Name | nodes.Getattr):
            return "a call of what it computes"
        case _:
            found = _REFUSED.get(type(node))
            return f"{found} is not let in" if found else None


def _width_of(node: nodes.Node) -> str | None:
    """Of a text that could be formatted by `%`, which cannot always be told from a remainder."""
    match node:
        case nodes.Const(value=str(text)) | nodes.TemplateData(data=text) if found := _PERCENT.search(text):
            return f"{found[0]!r} in a template that uses %"
        case _:
            return None


def _applied(call: nodes.Filter) -> str:
    """The filter that `map` applies by its name; `string`, which is let in, where it takes an attribute."""
    if call.dyn_args is not None or call.dyn_kwargs is not None:
        return "what it computes"
    if not call.args:
        return "string"
    named = call.args[0]
    return str(named.value) if isinstance(named, nodes.Const) else "what it computes"


def _is_narrow(call: nodes.Filter) -> bool:
    given = [*call.args, *(named.value for named in call.kwargs)]
    parts = [part for value in given for part in (value.items if isinstance(value, nodes.Tuple) else [value])]
    return call.dyn_args is None and call.dyn_kwargs is None and all(isinstance(part, nodes.Const) and _width(part.value) <= MAX_WIDTH for part in parts)


def _width(value: object) -> int:
    return value if isinstance(value, int) else len(value) if isinstance(value, str) else 0
