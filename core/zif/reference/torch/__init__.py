"""The torch reference: kernels for every op, and a backend's parts for any torch device."""

from zif.reference.torch.backend import TorchBackend
from zif.reference.torch.executables import EagerExecutables
from zif.reference.torch.packing import TorchPacker
from zif.reference.torch.reference import TorchReference
from zif.reference.torch.runtime import TorchRuntime, torch_dtype

__all__ = ["EagerExecutables", "TorchBackend", "TorchPacker", "TorchReference", "TorchRuntime", "torch_dtype"]
