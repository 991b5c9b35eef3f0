"""How linears of few tokens are laid out: what is tried, and what is taken where nothing was measured.

The figures behind it are in ``benchmarks/cuda_h200.md`` and ``cuda_h100.md``, made by ``benchmarks/cuda_linears.py``
and by traces of whole steps, which the rule goes by: a product that is measured alone says too little.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from zif.portable.triton.launching import Machine
from zif.portable.triton.linear import LEAST_INPUTS, Tile

Kind = Literal["linear", "sum", "gated", "logits"]
"""A plain result; one that may stay in parts; one with its activation; one in float32."""
BUCKETS = (1, 16, 32, 64, 96, 128, 192, 256)
"""Numbers of tokens that a choice is made for: each is taken as the next of these. More are cuBLAS's."""

FEW_BYTES = 16 << 20
"""A weight that the L2 cache holds beside what else is under way."""
EARLY = 256
"""Inputs of each output that a program of several tokens asks for before it waits."""
LONG = 2048
"""Inputs of a program that may share its processor with another."""


@dataclass(frozen=True, slots=True)
class Case:
    """A product to choose for: a weight [rows, inner] of ``dtype`` and up to ``tokens`` tokens."""

    kind: Kind
    rows: int
    inner: int
    dtype: str
    tokens: int

    @property
    def outputs(self) -> int:
        return self.rows // 2 if self.kind == "gated" else self.rows

    @property
    def weight_bytes(self) -> int:
        return self.rows * self.inner * 2


def bucket(tokens: int) -> int | None:
    """The least of :data:`BUCKETS` that holds ``tokens``, or None."""
    at = bisect_left(BUCKETS, tokens)
    return BUCKETS[at] if at < len(BUCKETS) else None


def default(case: Case, gpu: Machine) -> Tile | None:
    """The tile where nothing was measured; None for cuBLAS.

    A tile of 64 outputs by 128 inputs is within 4 % of the best, as long as there is one for every processor: where
    there is not, the inputs are split, and what each has on its way is more (:func:`_deep`). Beyond 64 tokens cuBLAS is
    ahead, but for small weights without an activation, up to 128 or, in parts, 256; and large ones with one up to 96.
    Tiles grow with the tokens, which every tile of outputs reads again: what comes through the L2 cache is the limit.
    """
    tile: Tile | None = None
    small = case.weight_bytes <= FEW_BYTES
    if case.tokens == 1:
        tile = _vector(case)
    elif case.tokens <= 32:
        tile = Tile(case.tokens, 64, 128)
    elif case.tokens <= 64 and case.kind == "logits":
        tile = Tile(64, 64, 128, stages=3, weights_first=False)
    elif case.tokens <= 64 and (small or case.kind != "gated"):
        tile = Tile(64, 32, 128, weights_first=False)
    elif case.tokens <= 96 and case.kind == "gated" and not small and _busy_to_the_end(case.outputs, 64, gpu):
        tile = Tile(64, 64, 64, stages=6) if case.tokens <= 64 else Tile(128, 64, 64, stages=6, warps=8)
    elif case.tokens <= 128 and small and case.kind in ("linear", "sum"):
        tile = Tile(64, 32 if case.kind == "sum" else 64, 128, weights_first=False)
    elif case.tokens <= 256 and small and case.kind == "sum":
        tile = Tile(128, 64, 64, stages=6, weights_first=False)
    fitted = None if tile is None else _fitted(tile, case, gpu)
    return None if fitted is None else _ahead(_deep(fitted, case, gpu), case)


def candidates(case: Case, gpu: Machine) -> Iterator[Tile | None]:
    """What is worth measuring: cuBLAS, the default, and the tiles that were best for some size.

    Where the rule has cuBLAS, and beyond 64 tokens, the rule alone: what is faster there alone made whole steps slower.
    """
    usual = default(case, gpu)
    tiles: tuple[Tile, ...]
    if usual is None or case.tokens > 64:
        yield usual
        return
    if case.tokens == 1:
        tiles = (Tile(1, 4, 2048, warps=8), Tile(1, 8, 1024), Tile(1, 4, 1024), Tile(1, 4, 512), Tile(1, 2, 1024))
    elif case.tokens <= 32:
        tiles = (Tile(case.tokens, 64, 128), Tile(case.tokens, 64, 64, stages=6), Tile(case.tokens, 32, 128, stages=6))
    else:
        tiles = (
            Tile(64, 32, 128, weights_first=False), Tile(64, 32, 64, stages=6, weights_first=False),
            Tile(64, 64, 128, stages=3, weights_first=False),
        )  # fmt: skip
    tried: list[Tile | None] = [None, usual]
    tried += [_fitted(tile, case, gpu) for tile in tiles]
    if case.tokens == 1 and case.kind == "sum" and case.inner % 1024 == 0 and case.inner <= 4096:
        tried += [Tile(1, outputs, 1024, splits=case.inner // 1024) for outputs in (4, 8)]
    yield from dict.fromkeys(tried)


def _deep(tile: Tile, case: Case, gpu: Machine) -> Tile:
    """``tile`` with more stages where that many programs at once still fit.

    Those of gated products take twice the room, which of large weights keeps what comes behind from starting early.
    """
    if tile.tokens == 1 or case.tokens > 64 or case.kind == "logits":
        return tile
    if case.kind == "gated" or tile.tokens > 32:
        fits = case.weight_bytes <= FEW_BYTES
    else:
        fits = -(-case.outputs // tile.outputs) * tile.splits <= gpu.processors
    stages = 5 if case.kind == "gated" else 6
    return replace(tile, stages=min(stages, _room(tile, case, gpu))) if fits else tile


def _vector(case: Case) -> Tile:
    if case.kind == "gated":
        return Tile(1, 4, 512) if case.inner < 2048 else Tile(1, 2, 1024)
    if case.inner < 2048:
        return Tile(1, 8, 1024)
    return Tile(1, 4, 2048) if case.inner == 2048 else Tile(1, 4, 2048, warps=8)


def _ahead(tile: Tile, case: Case) -> Tile:
    """``tile`` that asks for weights before it waits, where they are few enough to be there when it does."""
    if tile.tokens > 1 and case.kind == "logits":
        return replace(tile, early=EARLY)  # it costs nothing there, and so a head's kernel is that of sums in parts
    if case.weight_bytes > FEW_BYTES:
        return tile
    if tile.tokens > 1:
        return replace(tile, early=EARLY)
    rest = case.inner - tile.inputs  # what no program has loaded by then
    return replace(tile, early=1 << (rest - 1).bit_length()) if rest > 0 else tile


def _split(tile: Tile, case: Case, gpu: Machine) -> Tile:
    """``tile`` with the inputs in so many shares that most processors have a program.

    Of narrow ones two, where they are long or several of them read the same weights.
    """
    turns = -(-case.tokens // tile.tokens)
    programs = turns * -(-case.outputs // tile.outputs)
    splits = 1
    while splits < 8 and case.inner >= 2 * splits * 2 * tile.inputs:
        two = tile.tokens > 1 and tile.outputs < 64 and (turns > 1 or case.inner >= 2 * splits * LONG)
        if 2 * splits * programs > (2 if two else 1) * gpu.processors:
            break
        splits *= 2
    return replace(tile, splits=splits)


def _fitted(tile: Tile, case: Case, gpu: Machine) -> Tile | None:
    """``tile`` with as many inputs at a time as divide the weight's, and shares of them; None if nothing fits."""
    inputs = tile.inputs
    while inputs >= LEAST_INPUTS and case.inner % inputs:
        inputs //= 2
    if inputs < LEAST_INPUTS:
        return None
    fitted = replace(tile, inputs=inputs, warps=min(tile.warps, 4) if inputs < tile.inputs else tile.warps)
    room = _room(fitted, case, gpu)
    if not room:
        return None
    fitted = replace(fitted, stages=min(fitted.stages, room))
    return _split(fitted, case, gpu) if case.kind == "sum" else fitted


def _busy_to_the_end(outputs: int, each: int, gpu: Machine) -> bool:
    """Whether programs of ``each`` outputs, one a processor at a time, keep half of the processors in the last turn."""
    rest = -(-outputs // each) % gpu.processors
    return rest == 0 or 2 * rest >= gpu.processors


def _room(tile: Tile, case: Case, gpu: Machine) -> int:
    """How many stages of ``tile`` shared memory has room for."""
    outputs = 2 * tile.outputs if case.kind == "gated" else tile.outputs
    return gpu.shared_bytes // ((tile.tokens + outputs) * tile.inputs * 2)
