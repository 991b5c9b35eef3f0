"""What the leading rank's process and the others say to each other: picklable, over a pipe each.

A follower is told once what it is (:class:`Join`), says how many pages it has room for, is told how many all
take (:class:`Begin`), and from then on is given launches. What goes wrong with it is the last thing that it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zif.contract.comm import Group
from zif.engine.staging import Limits

if TYPE_CHECKING:
    from zif.contract.step import HostStep
    from zif.engine.runner import Key
    from zif.settings import Settings

Launch = tuple["Key", dict[str, Any], "HostStep | None"]
"""A program, its staged inputs, and the step to plan for it. An input that another program put out is None: the
last run's output of that name."""


@dataclass(frozen=True, slots=True)
class Join:
    """Load a rank's part of the model. ``settings`` name the rank's own device."""

    settings: Settings
    group: Group


@dataclass(frozen=True, slots=True)
class Pages:
    """So many pages a cache group fit on the rank's device."""

    count: int


@dataclass(frozen=True, slots=True)
class Begin:
    """Make a cache of so many pages, and carry out launches. Answered by :class:`Ready`."""

    num_pages: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class Ready:
    """The rank waits for launches."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The rank cannot go on: one readable line. ``kind`` is the exception's class."""

    kind: str
    message: str


Report = Pages | Ready | Failed
