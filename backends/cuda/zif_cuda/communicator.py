"""NCCL among ranks with a GPU each, as torch brings it."""

from __future__ import annotations

from typing import Any

import torch.distributed

from zif.contract.comm import Group
from zif.reference.torch.communicator import PATIENCE, TorchCommunicator
from zif_cuda.device import CudaDevice

c10d: Any = torch.distributed.distributed_c10d  # which exports its names to no type checker


def nccl(device: CudaDevice, group: Group) -> TorchCommunicator:
    """The communicator of ``device``'s rank, connected: the first collective does that, which a capture could not."""

    def make(store: Any, rank: int, size: int) -> Any:
        options = c10d.ProcessGroupNCCL.Options()
        options._timeout = PATIENCE
        return c10d.ProcessGroupNCCL(store, rank, size, options)

    communicator = TorchCommunicator(group, make)
    communicator.all_reduce(device.empty(1).zero_())
    return communicator
