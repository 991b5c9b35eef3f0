"""A Jinja program of a checkpoint's, in a sandbox.

What Hugging Face's ``apply_chat_template`` gives to a template (``raise_exception``, ``strftime_now``,
``tojson`` without HTML escapes, ``{% generation %}``, loop controls) is given here too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from zif.contract.errors import InvalidSettings

if TYPE_CHECKING:
    from jinja2 import Template


LONGEST_SOURCE = 2**20
"""Characters of a template; the longest known have 30,000."""


class Exceeded(Exception):
    """A program takes more steps, time or memory than it may."""


class JinjaProgram:
    """A compiled template. Raises :class:`InvalidSettings` if ``source`` is not valid Jinja."""

    def __init__(self, source: str) -> None:
        self._template = _compile(source)

    def run(self, names: Mapping[str, Any]) -> str:
        """Return the text that the template writes when it is given ``names``.

        A template is somebody else's program: it can raise any exception, and is ended where it takes too much
        (:mod:`zif.tokenizer.metered`).
        """
        from zif.tokenizer.metered import metered, steps_for

        with metered(steps_for([*names.get("messages", ()), *(names.get("tools") or ())])):
            return self._template.render(names)


def _compile(source: str) -> Template:
    import jinja2
    import jinja2.ext

    from zif.tokenizer.metered import MeteredEnvironment

    class GenerationBlock(jinja2.ext.Extension):
        """``{% generation %}`` marks what an assistant said, for training; here it is just its content."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = MeteredEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raiser(jinja2.TemplateError)
    environment.globals["strftime_now"] = _strftime_now
    if len(source) > LONGEST_SOURCE:
        raise InvalidSettings(f"the chat template has {len(source)} characters; at most {LONGEST_SOURCE} are taken")
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise InvalidSettings(f"the chat template is not valid Jinja: {error}") from error
    except (RecursionError, SyntaxError, ValueError, OverflowError, MemoryError) as error:
        said = str(error) or type(error).__name__
        raise InvalidSettings(f"the chat template cannot be compiled: {said}") from error


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _raiser(kind: type[Exception]) -> Callable[[str], None]:
    def raise_exception(message: str) -> None:
        raise kind(message)

    return raise_exception
