"""Products of few tokens against float64: every way to lay one out, and sums left in parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from zif.portable.triton import launch, layers
from zif.portable.triton.layers import SplitSum
from zif.portable.triton.linear import Tile, product

FEW = Tile(16, 32, 64)
TILES = {
    "one token": Tile(1, 8, 64),
    "weights first": FEW,
    "tokens first": replace(FEW, weights_first=False),
    "asked for early": replace(FEW, early=128),
    "long steps": Tile(32, 16, 128, stages=2),
}
TIGHT = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 1.6e-2, "atol": 1e-2}}


def drawn(tokens: int, rows: int, inner: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows + inner)
    x, w, b = (torch.randn(shape, generator=generator) for shape in ((tokens, inner), (rows, inner), (rows,)))
    return x.to(dtype), (w * inner**-0.5).to(dtype), b.to(dtype)


@pytest.mark.parametrize("dtype", TIGHT, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", TILES)
def test_agrees_with_float64(name: str, bias: bool, dtype: torch.dtype) -> None:
    tile = TILES[name]
    x, w, b = drawn(1 if tile.tokens == 1 else tile.tokens + 3, 70, 256, dtype)
    added = b if bias else None
    exact = F.linear(x.double(), w.double(), b.double() if bias else None)
    got = product(launch, tile, x, w, added, None, dtype)
    assert isinstance(got, torch.Tensor)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, **TIGHT[dtype])
    wide = product(launch, tile, x, w, added, None, torch.float32)
    assert isinstance(wide, torch.Tensor)
    torch.testing.assert_close(wide.double(), exact, **TIGHT[torch.float32])


@pytest.mark.parametrize("gate", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("name", TILES)
def test_activations_read_both_halves(name: str, gate: str) -> None:
    tile = TILES[name]
    x, w, b = drawn(1 if tile.tokens == 1 else 5, 100, 128, torch.float32)
    g, up = F.linear(x.double(), w.double(), b.double()).chunk(2, -1)
    exact = (F.silu(g) if gate == "silu" else F.gelu(g, approximate="tanh")) * up
    got = product(launch, tile, x, w, b, gate, torch.float32)
    assert isinstance(got, torch.Tensor)
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("splits", [2, 3, 4])
@pytest.mark.parametrize("tokens", [1, 19])
def test_a_sum_in_parts_is_whole_where_it_is_taken(tokens: int, splits: int) -> None:
    tile = replace(TILES["one token"] if tokens == 1 else FEW, splits=splits)
    x, w, b = drawn(tokens, 48, 256, torch.bfloat16)
    parts = product(launch, tile, x, w, b, None, torch.bfloat16)
    assert isinstance(parts, SplitSum)
    assert parts.parts.dtype == torch.float32
    assert parts.shape == (tokens, 48)
    exact = F.linear(x.double(), w.double(), b.double())
    torch.testing.assert_close(parts.parts.double().sum(0), exact, rtol=1e-5, atol=1e-5)
    residual, weight = torch.randn(tokens, 48).bfloat16(), torch.randn(48).bfloat16()
    out, total = layers.add_norm(launch, parts, residual, weight, 1e-6, 1.0)
    torch.testing.assert_close(total.double(), exact + residual.double(), **TIGHT[torch.bfloat16])
    rounded = total.double()
    scale = (rounded.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    torch.testing.assert_close(out.double(), rounded * scale * (1 + weight.double()), **TIGHT[torch.bfloat16])
    torch.testing.assert_close(layers.add(launch, parts, residual), total, rtol=0, atol=0)
    torch.testing.assert_close(layers.add(launch, parts, parts).double(), 2 * exact, **TIGHT[torch.bfloat16])
    scale = (exact.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    normed = layers.rms_norm(launch, parts, weight, 1e-6, 0.0)
    torch.testing.assert_close(normed.double(), exact * scale * weight.double(), rtol=2e-2, atol=2e-2)


def test_the_same_inputs_give_the_same_bits() -> None:
    x, w, _ = drawn(19, 48, 256, torch.bfloat16)
    once, again = (product(launch, replace(FEW, splits=2), x, w, None, None, torch.bfloat16) for _ in range(2))
    assert isinstance(once, SplitSum)
    assert isinstance(again, SplitSum)
    assert torch.equal(once.parts, again.parts)


def test_what_does_not_fit_is_refused() -> None:
    x, w, _ = drawn(5, 48, 96, torch.float32)
    with pytest.raises(AssertionError, match="does not fit 96 inputs"):
        product(launch, FEW, x, w, None, None, torch.float32)
    with pytest.raises(AssertionError, match="cannot hold 5"):
        product(launch, Tile(1, 8, 32), x, w, None, None, torch.float32)
