"""Launchers of products of few tokens with a weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zif.portable.triton.device import linear as device
from zif.portable.triton.launching import Launch, ceil_div, power_of_two
from zif.portable.triton.layers import SplitSum, Unnormed, dense_rows

Tensor = torch.Tensor
LEAST_INPUTS = 64
"""Inputs that a program multiplies at a time, at least; their number is a multiple of what it does."""
GATES = ("silu", "gelu_tanh")


@dataclass(frozen=True, slots=True)
class Tile:
    """How a product is laid out: ``tokens`` by ``outputs`` a program, ``inputs`` at a time.

    ``splits``: shares of the inputs, each a program's. ``weights_first``: they are the matrix unit's left operand.
    ``early``: inputs of each output that are asked for before what the tokens are is known. One token is no
    matrix: its tile has ``tokens`` 1, and neither stages nor an order.
    """

    tokens: int
    outputs: int
    inputs: int
    splits: int = 1
    stages: int = 4
    warps: int = 4
    weights_first: bool = True
    early: int = 0

    def fits(self, inner: int) -> bool:
        """Whether a weight of ``inner`` inputs can be read so."""
        return inner % self.inputs == 0 and inner // self.inputs >= self.splits


def product(
    launch: Launch,
    tile: Tile,
    x: Tensor | Unnormed,
    w: Tensor,
    bias: Tensor | None,
    gate: str | None,
    dtype: torch.dtype,
) -> Tensor | SplitSum:
    """``x`` [T, in] times ``w`` [out, in] in ``dtype``, in parts if the tile splits the inputs.

    With ``gate``, one of :data:`GATES`, the activation's product of the two halves of the outputs.
    """
    rows, inner = w.shape
    rows = rows if gate is None else rows // 2
    assert tile.fits(inner), f"{tile} does not fit {inner} inputs"
    tokens = x.shape[0]
    constants = {
        "BIAS": bias is not None, "GATED": gate is not None, "GELU": gate == "gelu_tanh", "BLOCK_N": tile.outputs,
        "BLOCK_K": tile.inputs, "EARLY": tile.early, "num_warps": tile.warps,
    }  # fmt: skip
    added = w if bias is None else bias
    share = ceil_div(inner // tile.inputs, tile.splits) * tile.inputs
    programs, splits = ceil_div(rows, tile.outputs), ceil_div(inner, share)
    assert splits == 1 or gate is None, "an activation takes whole sums"
    shape = (tokens, rows) if splits == 1 else (splits, tokens, rows)
    out = torch.empty(shape, dtype=dtype if splits == 1 else torch.float32, device=w.device)
    if tile.tokens == 1:
        assert tokens == 1, f"a tile of one token cannot hold {tokens}"
        constants |= {"NORM": isinstance(x, Unnormed), "BLOCK_X": power_of_two(inner)}
        if isinstance(x, Unnormed):
            arrays, parts, eps, offset = x.arrays(), x.parts, x.eps, x.offset
        else:
            arrays, parts, eps, offset = (out, dense_rows(x), w, w), 1, 0.0, 0.0
        launch(
            device.vector, (programs, splits), out, *arrays, w, added, rows, inner, share, eps, offset, PARTS=parts,
            **constants,
        )  # fmt: skip
    else:
        x = dense_rows(x.normed(launch) if isinstance(x, Unnormed) else x)
        grid = (ceil_div(tokens, tile.tokens), programs, splits)
        launch(
            device.skinny, grid, out, x, w, added, tokens, rows, inner, x.stride(0), share,
            WEIGHTS_FIRST=tile.weights_first, BLOCK_T=tile.tokens, num_stages=tile.stages, **constants,
        )  # fmt: skip
    return out if splits == 1 else SplitSum(out, dtype)
