"""A Jinja sandbox in which a program ends, in bounded memory: templates come from whoever made a checkpoint.

Each round of a loop and each call takes a step from a meter, and each filter, call and joined text takes more
the longer its operands are; texts and lists that an operation would make longer than a bound are refused before they
are made. What no step is taken for (a search in a text) is bounded by those lengths, and by the processor's time.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zif.tokenizer.jinja_program import Exceeded

LONGEST = 2**26
"""Characters of a text, and entries of a list."""
BASE_STEPS, STEPS_PER_MESSAGE = 100_000, 2_000
"""What a program may take; the largest known template takes about 30 for a message. Content adds a step a character."""
CPU_SECONDS = 2.0
"""Of the processor, for one run."""
_WIDEST = 10_000  # a number given to a filter
_MOST_BITS = 4096
_LENGTH_PER_STEP = 100
_STEPS_PER_LOOK = 64
_WIDE_FIELD = re.compile(r"\d{5}|\*")


class Meter:
    """What is left to one run."""

    __slots__ = ("_deadline", "_left", "_looks", "_steps")

    def __init__(self, steps: int) -> None:
        self._steps = self._left = steps
        self._looks = 0
        self._deadline = time.thread_time() + CPU_SECONDS

    def take(self, steps: int) -> None:
        """Take ``steps``. Raises Exceeded where they, or the time, are used up."""
        self._left -= steps
        if self._left < 0:
            raise Exceeded(f"it has not ended after {self._steps} steps")
        self._looks += 1
        if self._looks >= _STEPS_PER_LOOK:
            self._looks = 0
            if time.thread_time() > self._deadline:
                raise Exceeded(f"it has not ended after {CPU_SECONDS:g} s")


_METER: ContextVar[Meter | None] = ContextVar("_METER", default=None)


@contextmanager
def metered(steps: int) -> Iterator[None]:
    """Run programs on a meter of ``steps``."""
    token = _METER.set(Meter(steps))
    try:
        yield
    finally:
        _METER.reset(token)


def steps_for(messages: Iterable[Any]) -> int:
    """The steps that a program may take to write ``messages``."""
    steps = BASE_STEPS
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        steps += STEPS_PER_MESSAGE + (len(content) if isinstance(content, str) else len(str(content)))
    return steps


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox; :func:`metered` says how much a run in it may take."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters = {name: _metered_filter(name, function) for name, function in self.filters.items()}
        self.globals.pop("lipsum", None)

    def rounds(self, values: Iterable[Any]) -> Iterator[Any]:
        """``values``, each of which takes a step: what every ``for`` goes through."""
        for value in values:
            _take(1)
            yield value

    def joined(self, values: Iterable[Any]) -> str:
        """The texts of ``values`` as one."""
        return self.concat(map(str, values))

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        kept, length = [], 0
        for piece in pieces:
            length += len(piece)
            _refuse_longer(length)
            kept.append(piece)
        _take(length // _LENGTH_PER_STEP)
        return "".join(kept)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _take(1 + _length(left, right) // _LENGTH_PER_STEP)
        match operator:
            case "+":
                _refuse_longer(_length(left, right))
            case "*":
                for sized, times in ((left, right), (right, left)):
                    if isinstance(sized, str | list | tuple) and isinstance(times, int):
                        _refuse_longer(len(sized) * times)
                if isinstance(left, int) and isinstance(right, int):
                    _refuse_large(left.bit_length() + right.bit_length())
            case "**":
                if isinstance(left, int) and isinstance(right, int):
                    _refuse_large(left.bit_length() * right)
            case "%" if isinstance(left, str):
                _refuse_wide_fields(left)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        length = _length(*args, *kwargs.values())
        _take(1 + (length if isinstance(__obj, LoopContext) else length // _LENGTH_PER_STEP))
        subject = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # format is wrapped by the sandbox
        if isinstance(subject, str):
            _refuse_longer(_grown(__obj.__name__, subject, args))
        return super().call(__context, __obj, *args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in template.find_all(nodes.For):
            rounds = nodes.EnvironmentAttribute("rounds", lineno=loop.lineno)
            loop.iter = nodes.Call(rounds, [loop.iter], [], None, None, lineno=loop.lineno)
        return template


class _Generator(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802  (Jinja's name)
        self.write("environment.joined((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")


MeteredEnvironment.code_generator_class = _Generator


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # with the marks by which Jinja knows what to pass
    def run(*args: Any, **kwargs: Any) -> Any:
        given = args[1:] if hasattr(function, "jinja_pass_arg") else args
        _take(1 + _length(*given) // _LENGTH_PER_STEP)
        if any(isinstance(value, int) and abs(value) > _WIDEST for value in (*given[1:], *kwargs.values())):
            raise Exceeded(f"the filter {name} is given a number over {_WIDEST}")
        if given and isinstance(given[0], str):
            _refuse_longer(_grown(name, given[0], (*given[1:], *kwargs.values())))
        made = function(*args, **kwargs)
        _refuse_longer(_length(made))
        return made

    return run


def _grown(name: str, text: str, args: tuple[Any, ...]) -> int:
    """At least the length of what the method, or the filter, ``name`` makes of ``text``."""
    numbers = [value for value in args if isinstance(value, int)]
    texts = [value for value in args if isinstance(value, str)]
    match name:
        case "center" | "ljust" | "rjust" | "zfill":
            return max(numbers, default=0)
        case "expandtabs" | "indent":
            widths = [*numbers, *map(len, texts), 8]
            return len(text) + (text.count("\t") + text.count("\n") + 1) * max(widths)
        case "replace" if len(texts) >= 2:
            return len(text) + (text.count(texts[0]) if texts[0] else len(text) + 1) * len(texts[1])
        case "wordwrap":
            return len(text) * (1 + max(map(len, texts), default=1))
        case "join":
            parts = args[0] if args and isinstance(args[0], list | tuple) else ()
            return sum(len(text) + _length(part) for part in parts)
        case "format" | "format_map":
            _refuse_wide_fields(text)
        case "translate":
            raise Exceeded("translate is not for templates")
    return 0


def _take(steps: int) -> None:
    meter = _METER.get()
    if meter is not None:
        meter.take(steps)


def _length(*values: Any) -> int:
    return sum(len(value) for value in values if isinstance(value, str | list | tuple | dict))


def _refuse_longer(length: int) -> None:
    if length > LONGEST:
        raise Exceeded(f"it makes a text or a list longer than {LONGEST}")


def _refuse_large(bits: int) -> None:
    if bits > _MOST_BITS:
        raise Exceeded(f"it makes a number of more than {_MOST_BITS} bits")


def _refuse_wide_fields(text: str) -> None:
    if _WIDE_FIELD.search(text):
        raise Exceeded("it formats a field wider than 9999")
