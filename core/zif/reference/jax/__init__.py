"""The JAX reference: kernels for every op, and a backend's parts for any JAX device."""

from zif.reference.jax.backend import JaxBackend
from zif.reference.jax.executables import JaxExecutable, JaxExecutables
from zif.reference.jax.packing import JaxPacker
from zif.reference.jax.reference import JaxReference
from zif.reference.jax.runtime import JaxRuntime
from zif.reference.jax.trees import Runs, register_trees

__all__ = [
    "JaxBackend",
    "JaxExecutable",
    "JaxExecutables",
    "JaxPacker",
    "JaxReference",
    "JaxRuntime",
    "Runs",
    "register_trees",
]
