"""Sweeps that the cuda backend's choices come from: tiles of decode attention, matrix-vector products, logits.

    python benchmarks/cuda_tuning.py attention vector logits

What is timed is replayed as a graph over data that does not fit the L2 cache. Each part prints its best and,
for comparison, what the library does.
"""

# ruff: noqa: B023 (what a loop defines is called in the same turn)
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
import triton
from zif_cuda.device_kernels import matrix_vector
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

    ``only``: the numbers of cases to run, and "compile" to call every variant once and time none.
    """
    generator = torch.Generator().manual_seed(0)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    cases = (
        (2, 256, 600, 600), (2, 256, 100, 1500), (2, 128, 100, 1500), (2, 32, 100, 1500), (2, 8, 100, 1500),
        (2, 1, 400, 400), (4, 256, 100, 1500), (4, 32, 100, 1500), (4, 1, 400, 400), (4, 1, 4000, 4000),
    )  # fmt: skip
    tiles = ((32, 3, 4), (32, 4, 4), (64, 3, 4), (64, 3, 8), (128, 2, 4), (128, 3, 4), (128, 3, 8))
    timed = "compile" not in only
    for number, (group, seqs, low, high) in enumerate(cases):
        if not timed and number not in (0, 6):
            continue
        lens = torch.randint(low, high + 1, (seqs,), generator=generator, dtype=torch.int32)
        pages = -(-lens // 16)
        table = torch.zeros(seqs, 256, dtype=torch.int32)
        order = torch.randperm(int(pages.sum()), generator=generator).int() + 1
        at = 0
        for row, count in enumerate(pages.tolist()):
            table[row, :count] = order[at : at + count]
            at += count
        total = int(lens.sum()) * 8 * 128 * 2 * 2
        layers = max(4, min(40, (400 << 20) // total)) if timed else 1
        shape = (layers, int(pages.sum()) + 1, 16, 8, 128)
        keys, values = torch.randn(shape, **BF16), torch.randn(shape, **BF16)
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
                        BLOCK_B=256, BLOCK_G=16, BLOCK_M=group, BLOCK_T=256, BLOCK_S=4096 // (128 * group),
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
        k, v = (cache[places].double().repeat_interleave(group, 1) for cache in (keys, values))
        scores = torch.einsum("hd,nhd->hn", q[row].double(), k) * 128**-0.5
        rows.append(torch.einsum("hn,nhd->hd", scores.softmax(-1), v))
    return torch.stack(rows)


def vector() -> None:
    shapes = {
        "0.6b qkv": (4096, 1024), "0.6b o": (1024, 2048), "0.6b gate_up": (6144, 1024), "0.6b down": (1024, 3072),
        "8b qkv": (6144, 4096), "8b o": (4096, 4096), "8b gate_up": (28672, 4096), "8b down": (4096, 14336),
        "0.6b head": (151936, 1024), "8b head": (128256, 4096),
    }  # fmt: skip
    for name, (rows, inner) in shapes.items():
        nbytes = rows * inner * 2
        copies = max(2, min(60, (600 << 20) // nbytes))
        weights = [torch.randn(rows, inner, **BF16) * inner**-0.5 for _ in range(copies)]
        x = torch.randn(1, inner, **BF16)
        expected = F.linear(x.double(), weights[0].double())
        us = replayed([lambda w=w: F.linear(x, w) for w in weights])  # type: ignore[misc]
        say("vector", shape=name, by="cublas", us=us, tb_s=nbytes / us / 1e6)
        found = []
        for block_n, block_k, warps in product((2, 4, 8, 16), (512, 1024, 2048), (2, 4, 8)):
            if block_n * block_k < 1024 or block_n * block_k > 16384 or inner % block_k:
                continue
            out = torch.empty(1, rows, **BF16)

            def call(w: torch.Tensor) -> None:
                grid = (triton.cdiv(rows, block_n),)
                matrix_vector[grid](out, x, w, x, rows, inner, False, block_n, block_k, num_warps=warps)

            call(weights[0])
            error = ((out - expected).norm() / expected.norm()).item()
            us = replayed([lambda w=w: call(w) for w in weights])  # type: ignore[misc]
            found.append((us, block_n, block_k, warps, error))
        for us, block_n, block_k, warps, error in sorted(found)[:3]:
            say("vector", shape=name, by="triton", us=us, tb_s=nbytes / us / 1e6, block_n=block_n, block_k=block_k,
                warps=warps, error=error)  # fmt: skip


def logits() -> None:
    for rows, vocab, hidden in ((256, 151936, 1024), (256, 128256, 4096), (1, 151936, 1024)):
        w, x = torch.randn(vocab, hidden, **BF16), torch.randn(rows, hidden, **BF16)
        two = replayed([lambda: F.linear(x, w).float()] * 5)
        one = replayed([lambda: torch.mm(x, w.t(), out_dtype=torch.float32)] * 5)
        plain = replayed([lambda: F.linear(x, w)] * 5)
        figures = {"linear_then_float_us": two, "float32_out_us": one, "bf16_us": plain}
        say("logits", rows=rows, vocab=vocab, hidden=hidden, **figures)


if __name__ == "__main__":
    for part in sys.argv[1:]:
        name, *arguments = part.split(":")
        {"attention": attention, "vector": vector, "logits": logits}[name](*arguments)
