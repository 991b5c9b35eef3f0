"""What the leading rank's process and the others say to each other: picklable, over a pipe each.

A follower is told once what it is (:class:`Join`), says how many pages it has room for, is told how many all
take (:class:`Begin`), and from then on is given launches, and maybe told to :class:`Tune`. What goes wrong with it
is the last thing that it says.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zif.contract.arrays import ArraySpec
from zif.contract.comm import Group
from zif.contract.step import HostStep
from zif.engine.staging import Limits
from zif.engine.wire import Failed

if TYPE_CHECKING:
    from zif.engine.runner import Key
    from zif.settings import Settings


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
class Tune:
    """Tune, in the launches that follow."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The rank waits for launches."""


Report = Pages | Ready | Failed


class LaunchWriter:
    """Launches as bytes: arrays as their memory, a key by its number once it has been sent, 7 us for 256 sequences
    where pickling the same objects takes 100.
    """

    def __init__(self) -> None:
        self._numbers: dict[Key, int] = {}

    def message(self, key: Key, inputs: Mapping[str, Any], step: HostStep | None) -> bytes:
        """The program ``key`` is to be run with ``inputs``, after its kernels have planned for ``step``.

        An input that another program put out is None: the last run's output of that name.
        """
        number = self._numbers.get(key)
        known = number is not None
        if number is None:
            number = self._numbers[key] = len(self._numbers)
        arrays = {
            name: (value.dtype.char, value.tobytes()) if isinstance(value, np.ndarray) else None
            for name, value in inputs.items()
        }
        plan = None if step is None else (step.query_starts.tobytes(), step.kv_lens.tobytes(), step.exact)
        assert step is None or step.shape == key[1], "kernels plan for the step that is run next"
        return pickle.dumps((number, None if known else key, arrays, plan), pickle.HIGHEST_PROTOCOL)


class LaunchReader:
    """What :class:`LaunchWriter` wrote. ``specs`` gives the inputs of a program."""

    def __init__(self, specs: Callable[[Key], Mapping[str, ArraySpec]]) -> None:
        self._specs = specs
        self._known: dict[int, tuple[Key, Mapping[str, ArraySpec]]] = {}

    def launch(
        self, number: int, key: Key | None, arrays: dict[str, Any], plan: Any
    ) -> tuple[Key, dict[str, Any], HostStep | None]:
        """(key, inputs, step) of an unpickled message; arrays are read-only."""
        if key is not None:
            self._known[number] = (key, self._specs(key))
        key, specs = self._known[number]
        inputs = {
            name: None if value is None else np.frombuffer(value[1], value[0]).reshape(specs[name].shape)
            for name, value in arrays.items()
        }
        if plan is None:
            return key, inputs, None
        starts, lens, exact = plan
        return key, inputs, HostStep(key[1], np.frombuffer(starts, np.int32), np.frombuffer(lens, np.int32), exact)
