"""Where arrays are kept on a TPU, and in which layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from jax.sharding import Sharding

from zif.contract.arrays import ArraySpec
from zif.reference.jax import JaxRuntime
from zif.reference.jax.runtime import HostArray, JaxFetch
from zif_tpu.chips import BY_KIND
from zif_tpu.memory import room_for


class TpuFetch(JaxFetch):
    """What a program without room left behind is raised here, where it ran on its own."""

    def wait(self) -> dict[str, HostArray]:
        """Raises OutOfMemory."""
        with room_for("a step"):
            return super().wait()


class TpuRuntime(JaxRuntime):
    """JAX devices, with stacks of layers laid out as their compiler wants to scan over them.

    libtpu's compiler assigns tiles of 16 rows to bfloat16 matrices that a loop slices, for a TPU7x, and tiles
    of 8 to a program's parameters, which ``Layout.AUTO`` does not change: it copied the whole stack to the
    other tiling at the start of every step (13 GiB for Llama-3.1-8B). Kept in the loop's tiling from the
    start, nothing is left to copy. The generations before have 8 in both places.
    """

    def __init__(self, *devices: jax.Device) -> None:
        super().__init__(*devices)
        chip = BY_KIND.get(self.device.device_kind)
        self._loop_tile = None if chip is None else chip.loop_tile

    def zeros(self, spec: ArraySpec) -> jax.Array:
        """Raises OutOfMemory."""
        with room_for(f"an array of {spec.nbytes / 2**30:.1f} GiB"):
            return super().zeros(spec)

    def fetch(self, arrays: Mapping[str, jax.Array]) -> JaxFetch:
        return TpuFetch(arrays)

    def stack_format(self, ndim: int, dtype: Any) -> Format | Sharding:
        if self._loop_tile is None or ndim < 3 or dtype != jnp.bfloat16:
            return self.resident
        tiling = ((self._loop_tile, 128), (2, 1))  # rows x lanes, then pairs of rows to a 32-bit word
        return Format(Layout(tuple(range(ndim)), tiling), self.resident)
