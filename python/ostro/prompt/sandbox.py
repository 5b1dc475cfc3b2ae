"""Where chat templates of model files run: no access to Python, bounded work, the functions that they expect.

Environment as in Hugging Face's transformers (utils/chat_template_utils.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sized
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateRuntimeError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ostro.errors import BadConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jinja2 import Template
    from jinja2.parser import Parser
    from jinja2.runtime import Context

MAX_STEPS = 1_000_000
"""Rounds of loops in one rendering; a call counts as ten, it takes that much longer."""

MAX_CHARACTERS = 1 << 25
"""Characters that one rendering may write, and of any text on the way."""

_MAX_BITS = 4096
_NOT_ASCII = re.compile(r"[^\x00-~]")
_BUDGET, _NEVER_ESCAPE = " budget", " never escape"  # no template can spell these names


class RefusedError(TemplateRuntimeError):
    """The template itself called raise_exception."""


class SandboxedTemplate:
    """A compiled chat template. BadConfig if its source is not valid Jinja."""

    def __init__(self, source: str) -> None:
        environment = _Environment()
        try:
            tree = environment.parse(source)
            _bound(tree, environment)
            self._template: Template = environment.from_string(tree)
        except (TemplateError, RecursionError) as error:
            line = getattr(error, "lineno", None)
            place = f", line {line}" if line else ""
            raise BadConfig(f"chat template{place}: {error}") from error

    def render(self, variables: Mapping[str, Any], *, never_escape: str = "") -> str:
        """The text; what goes wrong inside comes out as it was raised (`RefusedError`, TypeError, ...).

        never_escape: a character that even `tojson(ensure_ascii=true)` writes as it is.
        """
        return self._template.render({**variables, _BUDGET: _Budget(), _NEVER_ESCAPE: never_escape})


class _Budget:
    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.characters = MAX_CHARACTERS

    def step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise SecurityError(f"more than {MAX_STEPS:,} rounds of loops, calls counted as ten")

    def write(self, count: int) -> None:
        self.characters -= count
        if self.characters < 0:
            raise SecurityError(f"more than {MAX_CHARACTERS:,} characters of output")


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        self.filters.update(
            {
                "tojson": _to_json,
                "bounded loop": _bounded_loop,
                "bounded output": _bounded_output,
                "bounded text": _checked,
            }
        )
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        context[_BUDGET].step(10)
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, Sized) and isinstance(times, int):
                    _check_length(len(value) * times)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * right)
        return _checked(super().call_binop(context, operator, left, right))


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks text for training; here its body is just written."""

    tags = {"generation"}  # noqa: RUF012 (declared so by the base class)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _bound(tree: nodes.Template, environment: _Environment) -> None:
    """Put loops, outputs and concatenations under the budget."""
    for loop in tree.find_all(nodes.For):
        loop.iter = _through("bounded loop", loop.iter)
    for output in tree.find_all(nodes.Output):
        output.nodes = [_through("bounded output", node) for node in output.nodes]
    for concatenation in list(tree.find_all(nodes.Concat)):
        inner = nodes.Concat(concatenation.nodes, lineno=concatenation.lineno)
        concatenation.nodes = [_through("bounded text", inner)]
    tree.set_environment(environment)


def _through(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@pass_context
def _bounded_loop(context: Context, items: Any) -> Any:
    budget: _Budget = context[_BUDGET]
    if isinstance(items, Sized):
        budget.step(len(items))
        return items
    return _counted(items, budget) if isinstance(items, Iterable) else items


def _counted(items: Iterable[Any], budget: _Budget) -> Iterator[Any]:
    for item in items:
        budget.step()
        yield item


@pass_context
def _bounded_output(context: Context, value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    context[_BUDGET].write(len(text))
    return text


def _checked(value: Any) -> Any:
    if isinstance(value, Sized):
        _check_length(len(value))
    elif isinstance(value, int):
        _check_bits(value.bit_length())
    return value


def _check_length(length: int) -> None:
    if length > MAX_CHARACTERS:
        raise SecurityError(f"a value of {length:,} items; at most {MAX_CHARACTERS:,} are allowed")


def _check_bits(bits: int) -> None:
    if bits > _MAX_BITS:
        raise SecurityError(f"a number of more than {_MAX_BITS:,} bits")


@pass_context
def _to_json(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    if not ensure_ascii:
        return text
    kept = context[_NEVER_ESCAPE]
    return _NOT_ASCII.sub(lambda match: match[0] if match[0] == kept else json.dumps(match[0])[1:-1], text)


def _raise_exception(message: object) -> None:
    raise RefusedError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
