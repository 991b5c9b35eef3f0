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
    half of what the chip has.
    ``memory_bytes`` is what libtpu's compiler lets a program have, somewhat less than the chip's HBM.
    """

    name: str
    flops: float
    bandwidth: float
    memory_bytes: int


V4 = Chip("v4", 137.5e12, 614e9, int(15.25 * GIB))
V5E = Chip("v5e", 197e12, 819e9, int(15.75 * GIB))
V5P = Chip("v5p", 459e12, 2765e9, int(95.73 * GIB))
V6E = Chip("v6e", 918e12, 1640e9, int(31.24 * GIB))
TPU7X = Chip("tpu7x", 1153.5e12, 3690e9, int(94.74 * GIB))

CHIPS = {"0x005e": V4, "0x0062": V5P, "0x0063": V5E, "0x006f": V6E, "0x0076": TPU7X}
"""By PCI device id."""

BY_NAME = {chip.name: chip for chip in CHIPS.values()}
