"""TPU generations: what a chip has, as Google's documentation gives it. No framework needed."""

from __future__ import annotations

from dataclasses import dataclass

GOOGLE = "0x1ae0"
"""PCI vendor."""

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Chip:
    """One generation, per JAX device.

    ``flops`` are bf16 per second and ``bandwidth`` HBM bytes per second, peaks both. v5p has one
    device a chip (two cores as one); tpu7x, and v4 as libtpu compiles for it here, have two, each with
    half of what the chip has. ``link`` are bytes per second that it can send to its neighbours, over all
    of its links. ``kind`` is what JAX calls it.
    ``memory_bytes`` is what libtpu's compiler lets a program have, somewhat less than the chip's HBM.
    ``loop_tile`` is the height of the tiles in which its compiler wants what a loop slices, where that is
    not the height (8) in which arrays are otherwise kept: see :class:`zif_tpu.runtime.TpuRuntime`.
    """

    name: str
    kind: str
    flops: float
    bandwidth: float
    link: float
    memory_bytes: int
    loop_tile: int | None = None


V4 = Chip("v4", "TPU v4", 137.5e12, 614e9, 150e9, int(15.25 * GIB))
V5E = Chip("v5e", "TPU v5 lite", 197e12, 819e9, 200e9, int(15.75 * GIB))
V5P = Chip("v5p", "TPU v5", 459e12, 2765e9, 600e9, int(95.73 * GIB))
V6E = Chip("v6e", "TPU v6 lite", 918e12, 1640e9, 400e9, int(31.24 * GIB))
TPU7X = Chip("tpu7x", "TPU7x", 1153.5e12, 3690e9, 300e9, int(94.74 * GIB), loop_tile=16)

CHIPS = {"0x005e": V4, "0x0062": V5P, "0x0063": V5E, "0x006f": V6E, "0x0076": TPU7X}
"""By PCI device id."""

BY_NAME = {chip.name: chip for chip in CHIPS.values()}
BY_KIND = {chip.kind: chip for chip in CHIPS.values()}
