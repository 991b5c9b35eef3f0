"""The parts of a backend that any torch device shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zif.contract.backend import Backend, Capabilities, ConfigChange
from zif.contract.cache import CacheFormat
from zif.contract.comm import ONE_DEVICE, Communicator
from zif.contract.formats import reference_formats
from zif.contract.kernels import KernelSet
from zif.reference.torch.executables import EagerExecutables
from zif.reference.torch.packing import TorchPacker
from zif.reference.torch.reference import TorchReference
from zif.reference.torch.runtime import TorchRuntime


class TorchBackend(Backend):
    """Serves every model on a torch device through the reference kernels; plugins override what they have better."""

    name = "torch"
    capabilities = Capabilities(dtypes=("float32", "bfloat16"), asynchronous=False)
    communicator: Communicator = ONE_DEVICE

    def __init__(self, runtime: TorchRuntime) -> None:
        self.runtime = runtime
        self.packer = TorchPacker(runtime)
        self.executables = EagerExecutables(runtime.device)

    def resolve_config(self, config: Mapping[str, Any]) -> Sequence[ConfigChange]:
        return ()

    def tune(self) -> None:
        """There is nothing to choose from."""

    def kernels(self) -> Sequence[KernelSet]:
        return (TorchReference(),)

    def cache_formats(self) -> Sequence[CacheFormat]:
        return reference_formats(self.capabilities.dtypes)
