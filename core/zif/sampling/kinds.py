"""What values a parameter takes: checked and normalised in one place, for Python and for HTTP alike."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from zif.contract.errors import InvalidRequest


class Kind(Protocol):
    """A set of values."""

    def check(self, name: str, value: Any) -> Any:
        """Return ``value`` as it is kept. Raises :class:`InvalidRequest`, which calls the parameter ``name``."""
        ...

    @property
    def schema(self) -> dict[str, Any]:
        """The values as JSON Schema."""
        ...


@dataclass(frozen=True)
class Number:
    """A number in [low, high], or if ``open_low`` in (low, high]."""

    low: float
    high: float
    open_low: bool = False

    def check(self, name: str, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
            raise InvalidRequest(f"{name} must be a number, not {_shown(value)}", name)
        if value < self.low or value > self.high or (self.open_low and value == self.low):
            raise InvalidRequest(f"{name} must be in {self.range}, not {_shown(value)}", name)
        return value

    @property
    def range(self) -> str:
        """The interval, as mathematicians write it."""
        return f"{'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"

    @property
    def schema(self) -> dict[str, Any]:
        least = "exclusiveMinimum" if self.open_low else "minimum"
        return {"type": "number", least: self.low, "maximum": self.high}


@dataclass(frozen=True)
class Whole:
    """An integer in [low, high], numpy's included, and no float or bool. ``also`` is another name of 0."""

    low: int
    high: int
    also: int | None = None

    def check(self, name: str, value: Any) -> int:
        try:
            if isinstance(value, bool):
                raise TypeError
            number = operator.index(value)
        except TypeError:
            raise InvalidRequest(f"{name} must be a whole number, not {_shown(value)}", name) from None
        if number == self.also:
            return 0
        if not self.low <= number <= self.high:
            raise InvalidRequest(f"{name} must be in [{self.low}, {self.high}], not {_shown(number)}", name)
        return number

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low if self.also is None else self.also, "maximum": self.high}


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise InvalidRequest(f"{name} must be true or false, not {_shown(value)}", name)
        return value

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Texts:
    """A string, or a list of up to ``most``, none empty or of more than ``longest`` characters; kept as a tuple."""

    most: int
    longest: int

    def check(self, name: str, value: Any) -> tuple[str, ...]:
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts[: self.most]):
            raise InvalidRequest(f"{name} must be a string or a list of strings", name)
        if len(texts) > self.most or not all(texts):
            raise InvalidRequest(f"{name} takes up to {self.most} non-empty strings", name)
        if max(map(len, texts), default=0) > self.longest:
            raise InvalidRequest(f"{name} takes strings of up to {self.longest} characters", name)
        return tuple(texts)

    @property
    def schema(self) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1, "maxLength": self.longest}
        return {"anyOf": [text, {"type": "array", "items": text, "maxItems": self.most}]}


@dataclass(frozen=True)
class TokenIds:
    """A list of up to ``most`` token ids, kept as a tuple. Whether the model has them is checked with the model."""

    most: int

    def check(self, name: str, value: Any) -> tuple[int, ...]:
        ids = (value,) if isinstance(value, int) else value
        if not isinstance(ids, list | tuple):
            raise InvalidRequest(f"{name} must be a list of token ids", name)
        if len(ids) > self.most:
            raise InvalidRequest(f"{name} takes up to {self.most} ids", name)
        return tuple(_token_id(name, token) for token in ids)

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": self.most}


@dataclass(frozen=True)
class Biases:
    """Token ids (JSON spells them as strings) with a number in [low, high] each, up to ``most`` of them."""

    most: int
    low: float
    high: float

    def check(self, name: str, value: Any) -> Mapping[int, float]:
        if not isinstance(value, Mapping):
            raise InvalidRequest(f"{name} must be an object that gives token ids a number each", name)
        if len(value) > self.most:
            raise InvalidRequest(f"{name} has {len(value)} entries; at most {self.most} are taken", name)
        bias = Number(self.low, self.high)
        return {_token_id(name, token): bias.check(name, number) for token, number in value.items()}

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": Number(self.low, self.high).schema}


def _token_id(name: str, value: Any) -> int:
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) < 20):
            raise InvalidRequest(f"{name}: {_shown(value)} is not a token id", name)
        return int(value)
    return Whole(-(2**63), 2**63 - 1).check(name, value)


def _shown(value: object) -> str:
    """``value`` as an error message has it: a client's megabyte does not come back."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 2**128 else "one of many digits"
    text = repr(value) if isinstance(value, str | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:40]}…"
