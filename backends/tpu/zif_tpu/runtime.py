"""Where arrays are kept, and fetched from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from zif.contract import ArraySpec
from zif.reference.jax import JaxRuntime
from zif.reference.jax.runtime import HostArray, JaxFetch
from zif_tpu.memory import room_for


class TpuFetch(JaxFetch):
    """What a program without room left behind is raised here, where it ran on its own."""

    def wait(self) -> dict[str, HostArray]:
        """Raises OutOfMemory."""
        with room_for("a step"):
            return super().wait()


class TpuRuntime(JaxRuntime):
    """JAX devices; that there is no room on them is told as OutOfMemory."""

    def zeros(self, spec: ArraySpec) -> jax.Array:
        """Raises OutOfMemory."""
        with room_for(f"an array of {spec.nbytes / 2**30:.1f} GiB"):
            return super().zeros(spec)

    def fetch(self, arrays: Mapping[str, Any]) -> JaxFetch:
        return TpuFetch(arrays)
