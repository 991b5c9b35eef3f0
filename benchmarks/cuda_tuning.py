"""The sweep that decode attention's tiles come from; ``cuda_linears.py`` is that of the linears.

    python benchmarks/cuda_tuning.py attention

What is timed is replayed as a graph over data that does not fit the L2 cache. It prints the best.
"""

# ruff: noqa: B023 (what a loop defines is called in the same turn)
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from zif_cuda.launching import launch_overlapping

from zif.portable.triton.device.decode import decode

BF16 = {"dtype": torch.bfloat16, "device": "cuda"}
INT = {"dtype": torch.int32, "device": "cuda"}


def say(part: str, **figures: Any) -> None:
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({"part": part, **rounded}), flush=True)


def replayed(calls: Sequence[Callable[[], Any]]) -> float:
    """Microseconds of one of ``calls``, which a graph holds one after the other."""
    calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    for _ in range(2):
        graph.replay()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(5):
        graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3 / (5 * len(calls))


def attention(*only: str) -> None:
    """Decode attention: tiles, stages and programs to a processor, over batches alike and ragged.

    ``only``: the numbers of cases to run (or, with "compile", of variants to call once, to time none), "fp8" for a
    cache of eight bits.
    """
    generator = torch.Generator().manual_seed(0)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    cases = (
        (2, 256, 600, 600), (2, 256, 100, 1500), (2, 128, 100, 1500), (2, 32, 100, 1500), (2, 8, 100, 1500),
        (2, 1, 400, 400), (4, 256, 100, 1500), (4, 32, 100, 1500), (4, 1, 400, 400), (4, 1, 4000, 4000),
    )  # fmt: skip
    tiles = ((32, 3, 4), (32, 4, 4), (64, 3, 4), (64, 3, 8), (128, 2, 4), (128, 3, 4), (128, 3, 8))
    timed, narrow = "compile" not in only, "fp8" in only
    chosen = {word for word in only if word.isdecimal()}
    if narrow:
        tiles = (*tiles, (64, 5, 4), (64, 7, 4), (128, 5, 4))
    for number, (group, seqs, low, high) in enumerate(cases):
        if (chosen and str(number) not in chosen) if timed else number not in (0, 6):
            continue
        lens = torch.randint(low, high + 1, (seqs,), generator=generator, dtype=torch.int32)
        pages = -(-lens // 16)
        table = torch.zeros(seqs, 256, dtype=torch.int32)
        order = torch.randperm(int(pages.sum()), generator=generator).int() + 1
        at = 0
        for row, count in enumerate(pages.tolist()):
            table[row, :count] = order[at : at + count]
            at += count
        total = int(lens.sum()) * 8 * 128 * 2 * (1 if narrow else 2)
        layers = max(4, min(40, (400 << 20) // total)) if timed else 1
        shape = (layers, int(pages.sum()) + 1, 16, 8, 128)
        keys, values = torch.randn(shape, **BF16), torch.randn(shape, **BF16)
        if narrow:
            keys, values = keys.to(torch.float8_e4m3fn), values.to(torch.float8_e4m3fn)
        q = torch.randn(seqs, 8 * group, 128, **BF16)
        out = torch.empty_like(q)
        arrived = torch.zeros(seqs, 8, **INT)
        lens, table = lens.cuda(), table.cuda()
        new = torch.randn(seqs, 8, 128, **BF16)
        angles = torch.cat([torch.ones(seqs, 64), torch.zeros(seqs, 64)], 1).cuda()  # q and k stay as they are
        found: list[tuple[float, ...]] = []
        for at, (block, stages, warps) in enumerate(tiles):
            if not timed and str(at) not in only:
                continue
            for programs in (1, 2, 3, 4) if timed else (1,):
                shares = processors * programs // 8
                partial = torch.empty(shares, 8, 2, group, 128, dtype=torch.float32, device="cuda")
                top = torch.empty(shares, 8, 2, group, dtype=torch.float32, device="cuda")

                def call(layer: int) -> None:
                    k, v = keys[layer], values[layer]
                    launch_overlapping(
                        decode, (8, shares), out, partial, top, arrived, q, k, v, table, lens, new, new, q, q, angles,
                        seqs, *q.stride()[:2], *k.stride()[:3], *v.stride()[:3], table.stride(0), *new.stride()[:2],
                        *new.stride()[:2], 128**-0.5, 0.0, 0.0, GROUP=group, CAP=0.0, WINDOW=0, HEAD_DIM=128,
                        V_HEAD_DIM=128, PAGE_SIZE=16, FRESH=True, NORM=False, ROTARY=128, INTERLEAVED=False,
                        BLOCK_B=16 if seqs == 1 else 256, BLOCK_G=16, BLOCK_M=group,
                        BLOCK_S=(8192 if seqs == 1 else 4096) // (128 * group),
                        BLOCK_N=block, BLOCK_D=128, BLOCK_V=128, num_warps=warps, num_stages=stages,
                    )  # fmt: skip

                try:
                    call(0)
                    if not timed:
                        continue
                    expected = _attended(q[:4], keys[0], values[0], table[:4], lens[:4], group)
                    error = ((out[:4] - expected).norm() / expected.norm()).item()
                    us = replayed([lambda layer=layer: call(layer) for layer in range(layers)])  # type: ignore[misc]
                except triton.runtime.errors.OutOfResources:
                    continue
                found.append((us, block, stages, warps, programs, error))
        found.sort()
        for us, block, stages, warps, programs, error in [
            *found[:5],
            *(f for f in found[5:] if f[1:5] in ((128, 3, 4, 2), (32, 3, 4, 1))),
        ]:
            say("attention", group=group, seqs=seqs, lens=[low, high], us=us, tb_s=total / us / 1e6, block=block,
                stages=stages, warps=warps, programs=programs, error=error)  # fmt: skip
        if timed:
            assert not arrived.any()
            say("attention", worst_error=max(f[-1] for f in found), variants=len(found))


def _attended(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, table: torch.Tensor, lens: torch.Tensor, group: int
) -> torch.Tensor:
    """Decode attention in float64."""
    rows = []
    for row, length in enumerate(lens.tolist()):
        at = torch.arange(length, device="cuda")
        places = table[row, at // 16].long(), at % 16
        k, v = (cache.float()[places].double().repeat_interleave(group, 1) for cache in (keys, values))
        scores = torch.einsum("hd,nhd->hn", q[row].double(), k) * 128**-0.5
        rows.append(torch.einsum("hn,nhd->hd", scores.softmax(-1), v))
    return torch.stack(rows)


if __name__ == "__main__":
    for part in sys.argv[1:]:
        name, *arguments = part.split(":")
        {"attention": attention}[name](*arguments)
