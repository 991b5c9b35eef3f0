"""The frameworks that the spike runs on: torch, JAX, and numpy in float64 as the oracle of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from zif.conformance.oracle import Oracle
from zif.contract.backend import Backend
from zif.reference.jax import JaxBackend, JaxRuntime
from zif.reference.torch import TorchBackend, TorchRuntime


@dataclass(frozen=True)
class Framework:
    """A backend, and its library's einsum for kernels that extensions bring."""

    name: str
    make: Callable[[], Any]
    einsum: Callable[..., Any]

    def backend(self) -> Backend:
        made: Backend = self.make()
        return made


def _jax_einsum(subscripts: str, *operands: Any) -> Any:
    return jnp.einsum(subscripts, *operands, precision="highest")


TORCH = Framework("torch", lambda: TorchBackend(TorchRuntime("cpu")), torch.einsum)
# what these programs compute takes no time, compiling them well would
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
JAX = Framework("jax", lambda: JaxBackend(JaxRuntime(jax.devices("cpu")[0]), _QUICK), _jax_einsum)
ORACLE = Framework("oracle", Oracle, np.einsum)
BOTH = (TORCH, JAX)
