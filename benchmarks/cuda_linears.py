"""Linears of few tokens: every tile of the portable kernels beside cuBLAS, at the sizes of two models.

    python benchmarks/cuda_linears.py compile skinny[:SHAPES] vector[:SHAPES] logits layer[:MODELS]

``compile`` fills Triton's cache on disk, in as many processes as there are processors, and times nothing.
SHAPES are parts of names, comma-separated. Each product is replayed as a graph over weights that do not fit the L2
cache, its kernels overlapping as they do in a model. ``floor_us`` is the weight's bytes at the speed of a copy.
``layer`` chains what of a layer is not attention, as the backend would choose it and with one thing otherwise.
"""

# ruff: noqa: B023 (what a loop defines is called in the same turn)
from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from triton.runtime.errors import OutOfResources
from zif_cuda.launching import launch_overlapping
from zif_cuda.tiles import FEW_BYTES, Case, candidates, default

from zif.portable.triton import Machine, layers
from zif.portable.triton.device.linear import skinny as skinny_kernel
from zif.portable.triton.device.linear import vector as vector_kernel
from zif.portable.triton.linear import Tile, product

BF16 = {"dtype": torch.bfloat16, "device": "cuda"}
SHAPES = {
    "0.6b qkv": (4096, 1024), "0.6b o": (1024, 2048), "0.6b gate_up": (6144, 1024), "0.6b down": (1024, 3072),
    "8b qkv": (6144, 4096), "8b o": (4096, 4096), "8b gate_up": (28672, 4096), "8b down": (4096, 14336),
    "0.6b head": (151936, 1024), "8b head": (128256, 4096),
}  # fmt: skip
COLD = 200 << 20
"""Bytes of weights that are read in turn."""
TOKENS = (2, 16, 32, 64, 128, 256)


class Shape(NamedTuple):
    first: bool
    tokens: int
    outputs: int
    inputs: int
    stages: int
    warps: int
    early: int = 0


def tiles(tokens: int) -> Iterator[Shape]:
    """What is tried for a tile of that many tokens."""
    small = ((32, 128, 4, 4), (32, 128, 6, 4), (32, 256, 4, 4), (16, 256, 4, 4), (64, 128, 4, 4), (64, 64, 6, 4))
    if tokens <= 32:
        for outputs, inputs, stages, warps in small:
            yield Shape(outputs >= 64, tokens, outputs, inputs, stages, warps)
        yield Shape(True, tokens, 64, 256, 3, 4)
        yield Shape(True, tokens, 128, 64, 5, 4)
        yield Shape(False, tokens, 64, 128, 4, 4)
    elif tokens == 64:
        for outputs, inputs, stages, warps in ((32, 128, 4, 4), (64, 128, 3, 4), (64, 64, 5, 4), (32, 64, 6, 4)):
            yield Shape(False, tokens, outputs, inputs, stages, warps)
        for outputs, inputs, stages, warps in ((64, 128, 3, 4), (64, 64, 5, 4), (128, 64, 4, 4), (128, 64, 4, 8)):
            yield Shape(True, tokens, outputs, inputs, stages, warps)
    elif tokens == 128:
        for outputs, inputs, stages, warps in ((32, 128, 3, 4), (64, 64, 4, 4), (64, 128, 3, 8), (32, 64, 5, 4)):
            yield Shape(False, tokens, outputs, inputs, stages, warps)
        for outputs, inputs, stages, warps in ((64, 64, 4, 4), (64, 128, 3, 4), (128, 64, 3, 8), (128, 64, 4, 8)):
            yield Shape(True, tokens, outputs, inputs, stages, warps)
    else:
        for outputs, inputs, stages, warps in ((64, 64, 3, 8), (64, 64, 4, 8), (32, 64, 4, 8)):
            yield Shape(False, tokens, outputs, inputs, stages, warps)
        yield Shape(True, tokens, 64, 64, 4, 4)
        yield Shape(True, tokens, 128, 64, 3, 8)


def say(part: str, **figures: Any) -> None:
    rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({"part": part, **rounded}), flush=True)


def replayed(calls: Sequence[Callable[[], Any]], turns: int = 4) -> float:
    """Microseconds of one of ``calls``, which a graph holds one after the other."""
    calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(turns):
        graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3 / (turns * len(calls))


def copy_speed() -> float:
    """Bytes a microsecond, read and written."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / replayed([lambda: target.copy_(source)] * 3)


def multiply(out: torch.Tensor, x: torch.Tensor, w: torch.Tensor, tile: Shape, splits: int, gated: bool) -> None:
    rows, inner = w.shape
    rows = rows // 2 if gated else rows
    share = -(-inner // splits // tile.inputs) * tile.inputs
    grid = (-(-len(x) // tile.tokens), -(-rows // tile.outputs), -(-inner // share))
    launch_overlapping(
        skinny_kernel, grid, out, x, w, x, len(x), rows, inner, x.stride(0), share, BIAS=False, GATED=gated,
        GELU=False, WEIGHTS_FIRST=tile.first, BLOCK_T=tile.tokens, BLOCK_N=tile.outputs, BLOCK_K=tile.inputs,
        EARLY=tile.early, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def multiply_one(
    out: torch.Tensor, x: torch.Tensor, w: torch.Tensor, tile: tuple[int, int, int, int], gated: bool
) -> None:
    rows, inner = w.shape
    rows = rows // 2 if gated else rows
    outputs, inputs, warps, early = tile
    launch_overlapping(
        vector_kernel, (-(-rows // outputs), 1), out, out, x, x, x, w, x, rows, inner, inner, 0.0, 0.0, BIAS=False,
        GATED=gated, GELU=False, NORM=False, PARTS=1, BLOCK_N=outputs, BLOCK_K=inputs,
        BLOCK_X=triton.next_power_of_2(inner), EARLY=early, num_warps=warps,
    )  # fmt: skip


def vector_tiles(inner: int, gated: bool) -> Iterator[tuple[int, int, int, int]]:
    for outputs, inputs, warps, early in itertools.product((2, 4, 8, 16), (512, 1024, 2048), (4, 8), (0, 512, 2048)):
        enough = 2048 <= outputs * inputs * (2 if gated else 1) <= 16384
        if enough and inner % inputs == 0 and inputs + early <= inner and (warps == 4 or outputs * inputs >= 8192):
            yield outputs, inputs, warps, early


def chosen(names: str) -> dict[str, tuple[int, int]]:
    return {name: shape for name, shape in SHAPES.items() if any(part in name for part in names.split(","))}


def weights_of(rows: int, inner: int) -> list[torch.Tensor]:
    copies = max(2, min(40, (300 << 20) // (rows * inner * 2)))
    return [torch.randn(rows, inner, **BF16) * inner**-0.5 for _ in range(copies)]


def wanted(name: str) -> tuple[bool, torch.dtype, tuple[int, ...]]:
    """(gated, dtype of the result, splits to try)."""
    if "head" in name:
        return False, torch.float32, (1,)
    if name.endswith((" o", " down")):
        return False, torch.float32, (1, 2, 4, 8)
    return "gate_up" in name, torch.bfloat16, (1,)


def library(name: str, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """By cuBLAS; a gated one without its activation."""
    return torch.mm(x, w.t(), out_dtype=torch.float32) if "head" in name else F.linear(x, w)


def expected_of(x: torch.Tensor, w: torch.Tensor, gated: bool) -> torch.Tensor:
    y = F.linear(x.double(), w.double())
    if not gated:
        return y
    gate, up = y.chunk(2, -1)
    return F.silu(gate) * up


def worst(out: torch.Tensor, expected: torch.Tensor) -> float:
    return ((out.double() - expected).abs().max() / expected.abs().max()).item()


def skinny(names: str = "") -> None:
    speed = copy_speed()
    say("ceiling", copy_tb_s=speed / 1e6)
    for name, (rows, inner) in chosen(names).items():
        begin = time.monotonic()
        weights = weights_of(rows, inner)
        gated, dtype, splits_of = wanted(name)
        outputs = rows // 2 if gated else rows
        floor = rows * inner * 2 / speed
        errors, variants = [], 0
        for tokens in TOKENS:
            x = torch.randn(tokens, inner, **BF16)
            expected = expected_of(x, weights[0], gated)
            cublas = replayed([lambda w=w: library(name, x, w) for w in weights])  # type: ignore[misc]
            found = []
            blocks = {max(16, tokens)} | ({128} if tokens == 256 else set())
            for tile in (tile for block in blocks for tile in tiles(block)):
                for splits in splits_of:
                    if inner // splits < 2 * tile.inputs or (splits > 1 and rows // tile.outputs * splits > 600):
                        continue
                    made = torch.full((splits, tokens, outputs), torch.nan, dtype=dtype, device="cuda")
                    try:
                        multiply(made, x, weights[0], tile, splits, gated)
                    except OutOfResources as error:  # more shared memory than there is
                        say("refused", tile=tile, why=str(error)[:80])
                        continue
                    errors.append(worst(made.sum(0), expected))
                    us = replayed([lambda w=w: multiply(made, x, w, tile, splits, gated) for w in weights])  # type: ignore[misc]
                    found.append((us, tile, splits))
                    variants += 1
            found.sort(key=lambda one: one[0])
            best, tile, splits = found[0]
            made = torch.empty((splits, tokens, outputs), dtype=dtype, device="cuda")
            sooner = {
                early: replayed(
                    [lambda w=w: multiply(made, x, w, tile._replace(early=early), splits, gated) for w in weights]  # type: ignore[misc]
                )
                for early in (256, 1024)
                if early <= inner // splits
            }
            three = [[round(us, 2), *tile[:-1], splits] for us, tile, splits in found[:3]]
            figures = {"floor_us": floor, "cublas_us": cublas, "us": best, "early_us": sooner}
            say("skinny", shape=name, tokens=tokens, **figures, best=three)
        say("skinny", shape=name, worst_error=max(errors), variants=variants, seconds=time.monotonic() - begin)


def vector(names: str = "") -> None:
    speed = copy_speed()
    for name, (rows, inner) in chosen(names).items():
        weights = weights_of(rows, inner)
        gated, dtype, _ = wanted(name)
        dtype = dtype if "head" in name else torch.bfloat16
        x = torch.randn(1, inner, **BF16)
        expected = expected_of(x, weights[0], gated)
        cublas = replayed([lambda w=w: library(name, x, w) for w in weights])  # type: ignore[misc]
        found, errors = [], []
        for tile in vector_tiles(inner, gated):
            out = torch.full((1, rows // 2 if gated else rows), torch.nan, dtype=dtype, device="cuda")
            multiply_one(out, x, weights[0], tile, gated)
            errors.append(worst(out, expected))
            us = replayed([lambda w=w: multiply_one(out, x, w, tile, gated) for w in weights])  # type: ignore[misc]
            found.append((us, *tile))
        found.sort()
        now = [one for one in found if one[1:] == ((8, 512, 4, 0) if inner < 2048 else (4, 1024, 4, 0))]
        three = [[round(us, 2), *rest] for us, *rest in found[:3] + now]
        floor = rows * inner * 2 / speed
        say("vector", shape=name, floor_us=floor, cublas_us=cublas, best=three, worst_error=max(errors))


LAYERS = {
    "0.6b": {"qkv": (4096, 1024), "o": (1024, 2048), "gate_up": (6144, 1024), "down": (1024, 3072)},
    "8b": {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)},
}
KINDS = {"qkv": "linear", "o": "sum", "gate_up": "gated", "down": "sum"}


def layer(models: str = "0.6b,8b") -> None:
    facts = torch.cuda.get_device_properties(0)
    gpu = Machine(facts.multi_processor_count, facts.shared_memory_per_block_optin)
    for model in models.split(","):
        shapes = LAYERS[model]
        nbytes = sum(rows * inner * 2 for rows, inner in shapes.values())
        count = max(2, COLD // nbytes)
        stack = [
            {name: torch.randn(rows, inner, **BF16) * inner**-0.5 for name, (rows, inner) in shapes.items()}
            for _ in range(count)
        ]
        norm = torch.ones(shapes["qkv"][1], **BF16)
        for tokens in (1, 16, 32, 64, 128, 256):
            heads = torch.randn(tokens, shapes["o"][1], **BF16)
            hidden = torch.randn(2, tokens, shapes["qkv"][1], **BF16)

            def chain(tiles: dict[str, Tile | None]) -> float:
                def linear(name: str, x: Any, w: dict[str, torch.Tensor]) -> Any:
                    gate = "silu" if name == "gate_up" else None
                    tile = tiles[name]
                    if tile is not None:
                        return product(launch_overlapping, tile, x, w[name], None, gate, torch.bfloat16)
                    y = F.linear(x.normed(launch_overlapping) if isinstance(x, layers.Unnormed) else x, w[name])
                    return y if gate is None else layers.gated_activation(launch_overlapping, y, gate)

                def normed(x: Any, residual: torch.Tensor) -> tuple[Any, torch.Tensor]:
                    if tokens > 1 or nbytes > 4 * FEW_BYTES:
                        return layers.add_norm(launch_overlapping, x, residual, norm, 1e-6, 0.0)
                    later = layers.unnormed(x, residual, norm, 1e-6, 0.0)
                    return later, later.total

                def all_layers() -> None:
                    x, residual = hidden
                    for w in stack:
                        x, residual = normed(x, residual)
                        linear("qkv", x, w)
                        x, residual = normed(linear("o", heads, w), residual)
                        x = linear("down", linear("gate_up", x, w), w)

                return replayed([all_layers], turns=8) / len(stack)

            ours = {
                name: default(Case(KINDS[name], *shape, "bfloat16", tokens), gpu)  # type: ignore[arg-type]
                for name, shape in shapes.items()
            }
            base = chain(ours)
            by_library = chain(dict.fromkeys(shapes))
            say("layer", model=model, tokens=tokens, bytes=nbytes, library_us=by_library, ours_us=base,
                tiles={name: tile and [*astuple(tile)] for name, tile in ours.items()})  # fmt: skip
            changed = {}
            for name, tile in ours.items():
                others: list[Tile | None] = [None]
                if tile is not None:
                    others += [
                        replace(tile, early=early)
                        for early in (0, 256, 1024)
                        if early != tile.early and early <= shapes[name][1] // tile.splits
                    ]
                if tile is not None and tokens > 1:  # one program a processor, or further ahead
                    others += [replace(tile, stages=tile.stages + more) for more in (1, 2)]
                if tokens == 1 and KINDS[name] == "sum":
                    others += [Tile(1, outputs, 1024, splits=shapes[name][1] // 1024 if shapes[name][1] < 4096 else 2)
                               for outputs in (4, 8, 16)]  # fmt: skip
                if tokens >= 128:
                    others += [other for other in candidates(
                        Case(KINDS[name], *shapes[name], "bfloat16", tokens), gpu) if other != tile]  # type: ignore[arg-type]  # fmt: skip
                for other in others:
                    if other is not None and not (other.splits and other.fits(shapes[name][1])):
                        continue
                    try:
                        us = chain(ours | {name: other}) - base
                    except OutOfResources:
                        continue
                    if us < 0.3:
                        changed[f"{name} {other and astuple(other)}"] = round(us, 2)
            say("layer", model=model, tokens=tokens, changed_us=dict(sorted(changed.items(), key=lambda one: one[1])))


def logits() -> None:
    for rows, vocab, hidden in ((256, 151936, 1024), (32, 151936, 1024), (256, 128256, 4096), (32, 128256, 4096)):
        w, x = torch.randn(vocab, hidden, **BF16), torch.randn(rows, hidden, **BF16)
        two = replayed([lambda: F.linear(x, w).float()] * 5)
        one = replayed([lambda: torch.mm(x, w.t(), out_dtype=torch.float32)] * 5)
        plain = replayed([lambda: F.linear(x, w)] * 5)
        figures = {"linear_then_float_us": two, "float32_out_us": one, "bf16_us": plain}
        say("logits", rows=rows, vocab=vocab, hidden=hidden, **figures)


def _compile_share(share: tuple[int, int]) -> int:
    """Compile every n-th variant."""
    at, stride = share
    small = {dtype: torch.zeros(16, 16, dtype=dtype, device="cuda") for dtype in (torch.bfloat16, torch.float32)}
    x = small[torch.bfloat16]
    jobs: list[Callable[[], Any]] = []
    for block, early in itertools.product((16, 32, 64, 128, 256), (0, 256, 1024)):
        for tile, gated, dtype in itertools.product(tiles(block), (False, True), small):
            if not (gated and dtype == torch.float32):
                jobs.append(
                    lambda tile=tile, gated=gated, dtype=dtype: skinny_kernel.warmup(  # type: ignore[misc]
                        small[dtype], x, x, x, 32, 1024, 1024, 1024, 1024, BIAS=False, GATED=gated, GELU=False,
                        WEIGHTS_FIRST=tile.first, BLOCK_T=tile.tokens, BLOCK_N=tile.outputs, BLOCK_K=tile.inputs,
                        EARLY=early, OVERLAP=True, num_warps=tile.warps, num_stages=tile.stages,
                        enable_fp_fusion=True, launch_pdl=True, grid=(1,),
                    )
                )  # fmt: skip
    for gated, dtype in ((False, torch.bfloat16), (True, torch.bfloat16), (False, torch.float32)):
        for outputs, inputs, warps, early in vector_tiles(1 << 20, gated):
            jobs.append(
                lambda tile=(outputs, inputs, warps, early), gated=gated, dtype=dtype: vector_kernel.warmup(  # type: ignore[misc]
                    small[dtype], small[dtype], x, x, x, x, x, 1024, 1024, 1024, 0.0, 0.0, BIAS=False, GATED=gated,
                    GELU=False, NORM=False, PARTS=1, BLOCK_N=tile[0], BLOCK_K=tile[1], BLOCK_X=1024, EARLY=tile[3],
                    OVERLAP=True, num_warps=tile[2], enable_fp_fusion=True,
                    launch_pdl=True, grid=(1,),
                )
            )  # fmt: skip
    for job in jobs[at::stride]:
        with contextlib.suppress(OutOfResources):
            job()
    return len(jobs[at::stride])


def compile_all() -> None:
    begin = time.monotonic()
    workers = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        made = sum(pool.map(_compile_share, [(at, workers) for at in range(workers)]))
    say("compile", variants=made, workers=workers, seconds=time.monotonic() - begin)


if __name__ == "__main__":
    for part in sys.argv[1:]:
        begun = time.monotonic()
        name, *arguments = part.split(":")
        {"compile": compile_all, "skinny": skinny, "vector": vector, "logits": logits, "layer": layer}[name](*arguments)
        say("took", which=part, seconds=time.monotonic() - begun)
