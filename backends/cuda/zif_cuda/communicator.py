"""NCCL among ranks with a GPU each, as torch brings it."""

from __future__ import annotations

import logging
import threading
from typing import Any

import torch.distributed

from zif.contract import Group
from zif.reference.torch.communicator import PATIENCE, TorchCommunicator
from zif_cuda.device import CudaDevice

logger = logging.getLogger(__name__)
c10d: Any = torch.distributed.distributed_c10d  # which exports its names to no type checker
CLOSING_SECONDS = 3.0
"""How long NCCL gets to cut its connections: less than whoever stops an engine waits for it."""


class NcclCommunicator(TorchCommunicator):
    """``device``'s rank of ``group``, connected: the first collective does that, which a capture could not."""

    def __init__(self, device: CudaDevice, group: Group) -> None:
        self._device = device
        super().__init__(group, _connect)
        self.all_reduce(device.empty(1).zero_())

    def close(self) -> None:
        """Destroy the device's graphs, then cut the connections: NCCL (2.26) waits for the last that has its launches.

        If it waits for something else, it is left alone after CLOSING_SECONDS, in a thread that ends with the process.
        """
        self._device.release_graphs()
        closing = threading.Thread(target=super().close, name="zif-nccl-close", daemon=True)
        closing.start()
        closing.join(CLOSING_SECONDS)
        if closing.is_alive():
            logger.warning(
                "NCCL has not cut its connections within %g s; left to end with the process", CLOSING_SECONDS
            )


def _connect(store: Any, rank: int, size: int) -> Any:
    options = c10d.ProcessGroupNCCL.Options()
    options._timeout = PATIENCE
    return c10d.ProcessGroupNCCL(store, rank, size, options)
