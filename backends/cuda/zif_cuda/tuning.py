"""Which tile a linear takes: measured on the device once, and kept on disk for the next start.

A choice is made the first time that a product of a size is run, and is final for the process: a program and the
graph that is recorded of it run the same kernels. Nothing is measured unasked: without :meth:`Choices.measure` what
is not on disk is :func:`zif_cuda.tiles.default`.

Ranks choose each for itself, and write one file where their GPUs are alike. They need not agree on weights that are
split: a tile decides how a rank's own addends and columns are rounded, and collectives give all ranks the same bits of
what becomes of them. What is whole on each goes by :meth:`Choices.rule`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zif.portable.triton.launching import Machine
from zif.portable.triton.linear import Tile
from zif_cuda.tiles import Case, candidates, default

logger = logging.getLogger(__name__)
SCHEMA = 3
"""Of the file. It rises when the kernels change so that what was measured says nothing any more."""
WORTH = 0.97
"""What is faster than the default takes no more than this share of its time: less is noise."""
Timer = Callable[[Case, Tile | None], float]
"""Microseconds of one product."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was chosen, and the microseconds that it took."""

    tile: Tile | None
    us: float


class TuningFile:
    """Choices on disk, for one kind of ``machine``: the facts that they depend on."""

    def __init__(self, directory: Path, machine: Mapping[str, str]) -> None:
        self._machine = {"schema": str(SCHEMA), **machine}
        digest = hashlib.sha256(json.dumps(self._machine, sort_keys=True).encode()).hexdigest()[:16]
        self.path = directory / f"linears-{digest}.json"

    def read(self) -> dict[Case, Measured]:
        """What is there; nothing, and a warning, if it cannot be read or is another machine's."""
        try:
            content = json.loads(self.path.read_text())
            if content["machine"] != self._machine:
                raise ValueError("it is another machine's")
            return {
                Case(**entry["case"]): Measured(_tile(entry["tile"]), float(entry["us"]))
                for entry in content["choices"]
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("ignoring what was measured of linears, %s: %s", self.path, error)
            return {}

    def write(self, found: Mapping[Case, Measured]) -> None:
        """``found`` and what others have written, in one step; a warning if it cannot be kept.

        Processes that write at the same time, as ranks do, take turns: nothing is lost.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self.path.with_suffix(".lock").open("a") as turn:
                with contextlib.suppress(OSError):  # on a file system without locks one is lost, not all
                    fcntl.flock(turn, fcntl.LOCK_EX)
                self._replace({**self.read(), **found})
        except OSError as error:
            logger.warning("cannot keep what was measured of linears in %s: %s", self.path, error.strerror)

    def _replace(self, measured: Mapping[Case, Measured]) -> None:
        choices = [
            {"case": asdict(case), "tile": asdict(one.tile) if one.tile else None, "us": round(one.us, 3)}
            for case, one in measured.items()
        ]
        content = json.dumps({"machine": self._machine, "choices": choices}, indent=1)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.stem)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(content)
            os.replace(name, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


class Choices:
    """The tile of each case on ``gpu``; without a ``file`` nothing is kept."""

    def __init__(self, gpu: Machine, file: TuningFile | None = None, timer: Timer | None = None) -> None:
        self._gpu = gpu
        self._file = file
        self._timer = timer
        self._kept: dict[Case, Measured] | None = None
        self._chosen: dict[Case, Tile | None] = {}
        self._measuring = False

    def measure(self) -> None:
        """From now on measure what is not known, where there is something to measure with."""
        self._measuring = self._timer is not None

    def tile(self, case: Case) -> Tile | None:
        """How to lay out the product; None for cuBLAS."""
        if case not in self._chosen:
            self._chosen[case] = self._choose(case)
        return self._chosen[case]

    def rule(self, case: Case) -> Tile | None:
        """As :meth:`tile`, whatever was measured: the same in every process with such a GPU."""
        return default(case, self._gpu)

    def _choose(self, case: Case) -> Tile | None:
        tried = list(candidates(case, self._gpu))
        if len(tried) == 1:
            return tried[0]  # the rule, whatever it was when something was kept
        if self._kept is None:
            self._kept = self._file.read() if self._file is not None else {}
        kept = self._kept.get(case)
        if kept is None and self._measuring:
            kept = self._fastest(case, tried)
            if kept is not None and self._file is not None:
                self._file.write({case: kept})
        if kept is None or (kept.tile is not None and not kept.tile.fits(case.inner)):
            return self.rule(case)
        return kept.tile

    def _fastest(self, case: Case, tried: Sequence[Tile | None]) -> Measured | None:
        """Of those ``tried``, the rule's among them; None where nothing could be run."""
        assert self._timer is not None
        times = {tile: self._timer(case, tile) for tile in tried}
        best, usual = min(times, key=times.__getitem__), self.rule(case)
        if times[best] > WORTH * times[usual]:
            best = usual
        logger.debug("%s: %s, %.1f us of %s", case, best, times[best], [round(us, 1) for us in times.values()])
        return Measured(best, times[best]) if math.isfinite(times[best]) else None


def _tile(entry: dict[str, Any] | None) -> Tile | None:
    return None if entry is None else Tile(**entry)
