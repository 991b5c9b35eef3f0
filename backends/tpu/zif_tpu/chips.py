"""TPU generations: what a chip has, as Google's documentation gives it. No framework needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GOOGLE = "0x1ae0"
"""PCI vendor."""

GIB = 1 << 30


SMALL_TILES = {"xla_tpu_control_large_2nd_minor_layout_for_x16": False}
"""For a TPU7x, libtpu's compiler lays 16-bit matrices that a loop slices out in tiles of 16 rows, and a program's
parameters in tiles of 8: it copied the whole stack of weights from the one to the other at the start of every step
(13 GiB for Llama-3.1-8B). This has it take tiles of 8 in both places, as for every other generation.
Giving the parameters tiles of 16 by ``jax.experimental.layout`` helps as well, on one device; over a mesh the
partitioner drops that."""


@dataclass(frozen=True, slots=True)
class Chip:
    """One generation, per JAX device.

    ``flops`` are bf16 per second and ``bandwidth`` HBM bytes per second, peaks both. v5p has one
    device a chip (two cores as one); tpu7x, and v4 as libtpu compiles for it here, have two, each with
    half of what the chip has. ``link`` are bytes per second that it can send to its neighbours, over all
    of its links. ``kind`` is what JAX calls it.
    ``memory_bytes`` is what libtpu's compiler lets a program have, somewhat less than the chip's HBM.
    ``compiler_options`` are libtpu's: see :data:`SMALL_TILES`.
    """

    name: str
    kind: str
    flops: float
    bandwidth: float
    link: float
    memory_bytes: int
    compiler_options: Mapping[str, bool] = field(default_factory=dict)


V4 = Chip("v4", "TPU v4", 137.5e12, 614e9, 150e9, int(15.25 * GIB))
V5E = Chip("v5e", "TPU v5 lite", 197e12, 819e9, 200e9, int(15.75 * GIB))
V5P = Chip("v5p", "TPU v5", 459e12, 2765e9, 600e9, int(95.73 * GIB))
V6E = Chip("v6e", "TPU v6 lite", 918e12, 1640e9, 400e9, int(31.24 * GIB))
TPU7X = Chip("tpu7x", "TPU7x", 1153.5e12, 3690e9, 300e9, int(94.74 * GIB), compiler_options=SMALL_TILES)

CHIPS = {"0x005e": V4, "0x0062": V5P, "0x0063": V5E, "0x006f": V6E, "0x0076": TPU7X}
"""By PCI device id."""

BY_NAME = {chip.name: chip for chip in CHIPS.values()}
BY_KIND = {chip.kind: chip for chip in CHIPS.values()}
