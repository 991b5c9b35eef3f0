"""Programs compiled and run before the first request, over the scratch row alone."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator

import numpy as np

from zif.contract.step import HostStep
from zif.engine.admission import no_requests
from zif.engine.launch import Launch
from zif.engine.programs import Admit, Assign, Forward
from zif.engine.runner import Runner
from zif.engine.shapes import UNBOUNDED
from zif.engine.staging import Staging
from zif.logs import PROGRESS
from zif.sampling.sampler import SamplerShape

progress = logging.getLogger(PROGRESS)
PROGRESS_SECONDS = 5.0
"""How often a start that compiles says how far it is."""
_NOBODY = np.zeros(0, np.int32)


def warm_up(runner: Runner) -> int:
    """Compile the programs of decode steps, of captured mixed ones and of what precedes steps; run each twice.

    Returns how many programs there are then. Nothing that a request will see changes.
    """
    launches = list(warm_launches(runner.staging))
    progress.info("compiling up to %d programs for this model and device, before the first request", len(launches))
    said = time.monotonic()
    for number, launch in enumerate(launches, 1):
        for _ in range(2):
            runner.run(launch)
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            progress.info("compiled %d of %d", number, len(launches))
    runner.backend.runtime.synchronize()
    return len(runner.programs)


def warm_launches(staging: Staging) -> Iterator[Launch]:
    """A launch of each program; large steps come first, so that what a graph leaves free has room for the next."""
    shapes = staging.shapes
    ordered = sorted(shapes.warmed(), key=lambda shape: (shape.tokens, shape.seqs), reverse=True)
    for shape, random in itertools.product(ordered, (False, True)):
        if not (shape.decode or random):
            continue  # a mixed step's sampler is one for all: see Staging.drawing
        assigned = shapes.assigned(shape)
        inputs = staging.nothing(shape)
        step = HostStep(shape, np.zeros(1, np.int32), _NOBODY) if staging.plans else None
        if staging.fuse:
            yield staging.drawing(shape, SamplerShape(shape.logits, random), _NOBODY, inputs, step)
        elif random:  # samplers aside, one program serves both
            yield Launch(Forward(shape, assigned), inputs, step=step)
    for rows in shapes.extents("rows", shapes.limits.rows):
        yield Launch(Admit(rows), no_requests(staging.table, rows))
    pages = shapes.limits.tokens // shapes.limits.page_size + shapes.limits.rows  # of a step that finds none cached
    for count in shapes.extents("assignments", pages, UNBOUNDED):
        yield Launch(Assign(count), staging.no_pages(count))
