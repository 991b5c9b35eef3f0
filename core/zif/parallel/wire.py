"""What the leading rank's process and the others say to each other: picklable, over a pipe each.

A follower is told once what it is (:class:`Join`), says how many pages it has room for, is told how many all
take (:class:`Begin`), and from then on is given launches, and maybe told to :class:`Tune`. What goes wrong with it
is the last thing that it says.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zif.contract.comm import Group
from zif.contract.ops.draw import numpy_dtype
from zif.contract.step import HostStep, StepShape
from zif.engine.launch import Launch
from zif.engine.programs import EngineProgram, ProgramSpec
from zif.engine.shapes import Limits
from zif.engine.wire import Failed

if TYPE_CHECKING:
    from zif.settings import Settings


@dataclass(frozen=True, slots=True)
class Join:
    """Load a rank's part of the model. ``settings`` name the rank's own device."""

    settings: Settings
    group: Group


@dataclass(frozen=True, slots=True)
class Pages:
    """So many pages of each cache group fit on the rank's device."""

    counts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Begin:
    """Make a cache of so many pages of each group, and carry out launches. Answered by :class:`Ready`."""

    num_pages: Sequence[int]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Tune:
    """Tune, in the launches that follow."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The rank waits for launches."""


Report = Pages | Ready | Failed
Layout = tuple[np.dtype[Any], tuple[int, ...]]
"""Dtype and shape of an array."""


class LaunchWriter:
    """Launches as bytes: arrays as their memory, a program by its number once it has been sent, 7 us for 256 sequences
    where pickling the same objects takes 100.
    """

    def __init__(self) -> None:
        self._numbers: dict[EngineProgram, int] = {}

    def message(self, launch: Launch) -> bytes:
        """What a :class:`LaunchReader` makes the same launch of."""
        program, step = launch.program, launch.step
        number = self._numbers.get(program)
        known = number is not None
        if number is None:
            number = self._numbers[program] = len(self._numbers)
        arrays = {name: value.tobytes() for name, value in launch.inputs.items()}
        plan = None if step is None else (step.query_starts.tobytes(), step.kv_lens.tobytes())
        told = number, None if known else program, arrays, launch.takes, plan
        return pickle.dumps(told, pickle.HIGHEST_PROTOCOL)


class LaunchReader:
    """What :class:`LaunchWriter` wrote. ``spec`` gives what a program is."""

    def __init__(self, spec: Callable[[EngineProgram], ProgramSpec]) -> None:
        self._spec = spec
        self._known: dict[int, tuple[EngineProgram, dict[str, Layout], StepShape | None]] = {}

    def launch(
        self, number: int, program: EngineProgram | None, arrays: dict[str, bytes], takes: tuple[str, ...], plan: Any
    ) -> Launch:
        """The launch of an unpickled message; its arrays are read-only."""
        if program is not None:
            spec = self._spec(program)
            layouts = {name: (numpy_dtype(array.dtype), array.shape) for name, array in spec.inputs.items()}
            self._known[number] = (program, layouts, spec.facts.step)
        program, layouts, shape = self._known[number]
        inputs = {}
        for name, data in arrays.items():
            dtype, extents = layouts[name]
            inputs[name] = np.frombuffer(data, dtype).reshape(extents)
        if plan is None:
            return Launch(program, inputs, takes)
        assert shape is not None, "kernels plan for the step that is run next"
        return Launch(program, inputs, takes, HostStep(shape, *(np.frombuffer(data, np.int32) for data in plan)))
