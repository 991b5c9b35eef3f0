"""Forms: kinds of opaque values that one kernel gives and another takes, and that a model does not look into.

A form is a constant that both kernels import from the module of its class. ``OpSpec.opaque_to`` lists the parameters
that an op's result may go to in such a form; binding chooses the form of each kernel (:mod:`zif.contract.edges`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of opaque value: its name, and the class of the values."""

    name: str
    kind: type

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class GivenForm:
    """The form in which ``kernel`` gives its op's first result, None for an Array, and the ``reason``."""

    kernel: str
    form: Form | None
    reason: str


Resolvers = Mapping[Form, Callable[[Any], Any]]
"""What makes a plain Array of a form, for takers that do not list it."""


def resolving(
    call: Callable[..., Any], places: Mapping[str, int], resolvers: Mapping[Form, Callable[[Any], Any]]
) -> Callable[..., Any]:
    """``call``, with values of the forms in ``resolvers`` made plain where they come as one of ``places``.

    ``places``: names of parameters, with their positions.
    """

    def plain(value: Any) -> Any:
        for form, resolve in resolvers.items():
            if isinstance(value, form.kind):
                return resolve(value)
        return value

    def resolved(*args: Any, **kwargs: Any) -> Any:
        given = list(args)
        for name, position in places.items():
            if position < len(given):
                given[position] = plain(given[position])
            elif name in kwargs:
                kwargs[name] = plain(kwargs[name])
        return call(*given, **kwargs)

    return resolved
