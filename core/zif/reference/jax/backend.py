"""The parts of a backend that any JAX device shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zif.contract.backend import Backend, Capabilities, ConfigChange
from zif.contract.cache import CacheFormat
from zif.contract.comm import ONE_DEVICE, Communicator
from zif.contract.formats import ScaledFormat, plain_formats
from zif.contract.kernels import KernelSet
from zif.reference.jax.executables import JaxExecutables
from zif.reference.jax.mesh import MeshCommunicator
from zif.reference.jax.packing import JaxPacker
from zif.reference.jax.reference import JaxReference
from zif.reference.jax.runtime import JaxRuntime


class JaxBackend(Backend):
    """Serves every model on a JAX device or a mesh by reference kernels; plugins override what they do better."""

    name = "jax"
    capabilities = Capabilities(dtypes=("bfloat16", "float32"))
    communicator: Communicator

    def __init__(self, runtime: JaxRuntime, compiler_options: Mapping[str, Any] | None = None) -> None:
        self.runtime = runtime
        self.packer = JaxPacker(runtime)
        self.executables = JaxExecutables(runtime, compiler_options)
        self.communicator = ONE_DEVICE if runtime.mesh is None else MeshCommunicator(runtime)

    def resolve_config(self, config: Mapping[str, Any]) -> Sequence[ConfigChange]:
        return ()

    def tune(self) -> None:
        """There is nothing to choose from."""

    def kernels(self) -> Sequence[KernelSet]:
        return (JaxReference(),)

    def cache_formats(self) -> Sequence[CacheFormat]:
        return (*plain_formats(*self.capabilities.dtypes), ScaledFormat())
