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

from zif.portable.triton.device.attention import combine, decode

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


def attention() -> None:
    generator = torch.Generator().manual_seed(0)
    cases = ((4, 256, 600, 600), (2, 256, 600, 600), (4, 256, 100, 1500), (2, 1, 400, 400), (4, 1, 4000, 4000))
    for group, seqs, low, high in cases:
        lens = torch.randint(low, high + 1, (seqs,), generator=generator, dtype=torch.int32)
        pages = -(-lens // 16)
        table = torch.zeros(seqs, 256, dtype=torch.int32)
        order = torch.randperm(int(pages.sum()), generator=generator).int() + 1
        at = 0
        for row, count in enumerate(pages.tolist()):
            table[row, :count] = order[at : at + count]
            at += count
        total = int(lens.sum()) * 8 * 128 * 2 * 2
        layers = max(4, min(40, (400 << 20) // total))
        shape = (layers, int(pages.sum()) + 1, 16, 8, 128)
        keys, values = torch.randn(shape, **BF16), torch.randn(shape, **BF16)
        q = torch.randn(seqs, 8 * group, 128, **BF16)
        out = torch.empty_like(q)
        lens, table = lens.cuda(), table.cuda()
        found = []
        splits_of = (1, 2) if seqs > 100 else (2, 4) if seqs > 1 else (8, 16, 32, 64)
        tiles = [(32, 3), (32, 4), (32, 6), (64, 2), (64, 3), (64, 4), (128, 2)]
        for (block, stages), warps, splits in product(tiles, (2, 4) if seqs > 1 else (4,), splits_of):
            if warps == 2 and block == 128:
                continue
            partial = torch.empty(seqs, 8 * group, splits, 128, dtype=torch.float32, device="cuda")
            top = torch.empty(seqs, 8 * group, splits, dtype=torch.float32, device="cuda")

            def call(layer: int) -> None:
                k, v = keys[layer], values[layer]
                decode[(8, seqs, splits)](
                    out, partial, top, q, k, v, table, lens, q.stride(0), q.stride(1), *k.stride()[:3], *v.stride()[:3],
                    table.stride(0), 128**-0.5, GROUP=group, CAP=0.0, WINDOW=0, SPLITS=splits, HEAD_DIM=128,
                    V_HEAD_DIM=128, PAGE_SIZE=16, BLOCK_G=16, BLOCK_N=block, BLOCK_D=128, BLOCK_V=128,
                    num_warps=warps, num_stages=stages,
                )  # fmt: skip
                if splits > 1:
                    combine[(seqs * 8 * group,)](
                        out, partial, top, SPLITS=splits, V_HEAD_DIM=128, BLOCK_S=splits, BLOCK_V=128, num_warps=4
                    )

            try:
                us = replayed([lambda layer=layer: call(layer) for layer in range(layers)])  # type: ignore[misc]
            except triton.runtime.errors.OutOfResources:
                continue
            found.append((us, block, stages, warps, splits))
        found.sort()
        for us, block, stages, warps, splits in [*found[:4], *(f for f in found[4:] if f[1:4] == (64, 3, 4))]:
            say("attention", group=group, seqs=seqs, lens=[low, high], us=us, tb_s=total / us / 1e6, block=block,
                stages=stages, warps=warps, splits=splits)  # fmt: skip


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
        {"attention": attention, "vector": vector, "logits": logits}[part]()
