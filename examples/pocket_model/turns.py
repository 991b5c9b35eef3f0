"""What a generated exchange is, the train/test split, and phrasing helpers that every task shares."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tables import ONES, TENS

T = TypeVar("T")

HELD_OUT_ONE_IN = 20
"""One task instance in this many is never trained on; only the scorer sees it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A user's message and the one right reply to it."""

    task: str
    user: str
    answer: str
    short: str = ""
    """The bare answer without its sentence; empty where a task has none."""
    key: str = ""
    """Identity for the train/test split: the content, not the phrasing. Empty: belongs to both."""


@dataclass(slots=True)
class Memory:
    """What the user has told so far in one conversation."""

    told: dict[str, str] = field(default_factory=dict)
    number: int | None = None
    """Result of the last calculation, for "and now add 5"."""
    persona: str = "zif-pocket"


Maker = Callable[[random.Random, Memory], Turn]


def is_held_out(key: str) -> bool:
    """True when the instance belongs to the test side of the split."""
    return zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0


def draw(maker: Maker, rng: random.Random, memory: Memory, test: bool) -> Turn:
    """Draws from ``maker`` until the instance lies on the wanted side of the split."""
    number = memory.number
    while True:
        turn = maker(rng, memory)
        if not turn.key or is_held_out(turn.key) == test:
            return turn
        memory.number = number


def skewed(rng: random.Random, items: Sequence[T]) -> T:
    """Picks with weights 1, 1/2, 1/3, ... so that a greedy decoder has a clear favourite."""
    cut = rng.random() * sum(1 / (i + 1) for i in range(len(items)))
    for i, item in enumerate(items):
        cut -= 1 / (i + 1)
        if cut <= 0:
            return item
    return items[-1]


_OPENERS = [
    "Hi! ",
    "Hello. ",
    "Hey, ",
    "OK, ",
    "Please tell me: ",
    "Quick question: ",
    "Can you help me? ",
    "I have a question. ",
    "So, ",
    "Now tell me, ",
    "Next question: ",
    "Great. ",
    "Thanks. ",
]
_CLOSERS = [" Thanks!", " Please.", " Thank you.", " Please help me.", " I want to know."]


def phrase(rng: random.Random, text: str) -> str:
    """Varies how a question is put without changing what it asks."""
    roll = rng.random()
    if roll < 0.55:
        return text
    if roll < 0.65:
        return text[0].lower() + text[1:]
    if roll < 0.75:
        return text.rstrip("?.!")
    if roll < 0.82:
        return text[0].lower() + text[1:].rstrip("?.!")
    if roll < 0.85:
        return text.lower()
    if roll < 0.95:
        return rng.choice(_OPENERS) + text
    return text + rng.choice(_CLOSERS)


def join_and(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return ("an " if noun[0] in "aeiouAEIOU" else "a ") + noun


def spell_number(n: int) -> str:
    """English words of ``0 <= n < 1000``."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")
    return f"{ONES[n // 100]} hundred" + (f" and {spell_number(n % 100)}" if n % 100 else "")
