"""The ops of the contract, a file a family: float64 references, conformance cases, tolerances."""

from __future__ import annotations

from collections.abc import Mapping

from zif.contract.ops import array, attention, latent, layers, moe, sampling, table
from zif.contract.opspec import REGISTRY, OpSpec

__all__ = ["array", "attention", "latent", "layers", "moe", "op_specs", "sampling", "table"]


def op_specs() -> Mapping[str, OpSpec]:
    """Every op of the contract, by name."""
    return REGISTRY
