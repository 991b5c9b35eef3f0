"""Weights as torch tensors in the checkpoint's own layout: format ``dense``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from zif.contract.arrays import Tree
from zif.contract.weights import HostArray, LoopStack
from zif.reference.packing import DensePacker
from zif.reference.torch.runtime import TorchRuntime, copy_into, torch_dtype


class TorchPacker(DensePacker):
    """Packs to ``dense``; layers are stacked as a list, for ``repeat`` to loop over."""

    def __init__(self, runtime: TorchRuntime) -> None:
        self.runtime = runtime

    def stack(self, layers: Sequence[Tree]) -> LoopStack:
        return LoopStack(list(layers))

    def rows(self, parts: Iterable[HostArray], shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """See :class:`DensePacker`."""
        joined = torch.empty(shape, dtype=torch_dtype(dtype), device=self.runtime.device)
        row = 0
        for part in parts:
            target = joined[row : row + part.shape[0]]
            if part.dtype.name == dtype:
                copy_into(target, part)
            else:
                target.copy_(self.runtime.put(part))
            row += part.shape[0]
        assert row == shape[0], f"{shape[0]} rows were declared and {row} came"
        return joined
