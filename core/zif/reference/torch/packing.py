"""Weights as torch tensors in the checkpoint's own layout: format ``dense``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zif.contract.arrays import Tree
from zif.contract.packer import HostTensors
from zif.contract.weights import LoopStack
from zif.reference.packing import DensePacker
from zif.reference.torch.runtime import TorchRuntime, copy_into, torch_dtype


class TorchPacker(DensePacker):
    """Packs to ``dense``; layers are stacked as a list, for ``repeat`` to loop over."""

    def __init__(self, runtime: TorchRuntime) -> None:
        self.runtime = runtime

    def stack(self, layers: Sequence[Tree]) -> LoopStack:
        return LoopStack(list(layers))

    def rows(self, parts: HostTensors, dtype: str) -> torch.Tensor:
        """Host tensors joined along their first axis, on the device, in ``dtype``."""
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        joined = torch.empty(shape, dtype=torch_dtype(dtype), device=self.runtime.device)
        row = 0
        for part in parts:
            target = joined[row : row + part.shape[0]]
            if part.dtype.name == dtype:
                copy_into(target, part)
            else:
                target.copy_(self.runtime.put(part))
            row += part.shape[0]
        return joined
