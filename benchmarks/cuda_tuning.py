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
from zif_cuda.launching import launch_overlapping

from zif.portable.triton.attention import LEAST
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


LAYOUTS = tuple(
    (block, stages, warps, programs, pieces)
    for block, stages, warps, programs in ((16, 3, 1, 8), (16, 4, 1, 7), (16, 3, 1, 6), (16, 4, 2, 7), (128, 3, 4, 2))
    for pieces in (16, 32, 64)
)
"""(positions of a tile, stages, warps, programs a processor, most pieces of a history)."""
CASES = (
    (2, 256, 600, 600), (2, 256, 100, 1500), (2, 128, 100, 1500), (2, 96, 640, 700), (2, 32, 100, 1500),
    (2, 8, 100, 1500), (2, 4, 100, 1500), (2, 1, 400, 400), (4, 256, 100, 1500), (4, 32, 100, 1500), (4, 1, 400, 400),
    (4, 1, 4000, 4000),
)  # fmt: skip
"""(query heads a kv head, sequences, least and most positions)."""


def attention(*only: str) -> None:
    """Decode attention: tiles, programs and pieces, over batches alike and ragged.

    ``only``: the numbers of cases to run, "fp8" for a cache of eight bits.
    """
    generator = torch.Generator().manual_seed(0)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    chosen = {int(word) for word in only if word.isdecimal()}
    for number, (group, seqs, low, high) in enumerate(CASES):
        if chosen and number not in chosen:
            continue
        lens = torch.randint(low, high + 1, (seqs,), generator=generator, dtype=torch.int32)
        pages = -(-lens // 16)
        table = torch.zeros(seqs, 256, dtype=torch.int32)
        order = torch.randperm(int(pages.sum()), generator=generator).int() + 1
        at = 0
        for row, count in enumerate(pages.tolist()):
            table[row, :count] = order[at : at + count]
            at += count
        total = int(lens.sum()) * 8 * 128 * 2 * (1 if "fp8" in only else 2)
        layers = max(4, min(40, (400 << 20) // total))
        shape = (layers, int(pages.sum()) + 1, 16, 8, 128)
        kind = torch.float8_e4m3fn if "fp8" in only else torch.bfloat16
        keys, values = torch.randn(shape, **BF16).to(kind), torch.randn(shape, **BF16).to(kind)
        q, out = torch.randn(seqs, 8 * group, 128, **BF16), torch.empty(seqs, 8 * group, 128, **BF16)
        arrived = torch.zeros(seqs, 8, **INT)
        lens, table = lens.cuda(), table.cuda()
        expected = _attended(q[:4].float(), keys[0], values[0], table[:4], lens[:4], group)
        found: list[tuple[float, ...]] = []
        for block, stages, warps, programs, pieces in LAYOUTS:
            slots = processors * programs // 8
            partial = torch.empty(slots + seqs, 8, group, 128, dtype=torch.float32, device="cuda")
            top = torch.empty(slots + seqs, 8, group, dtype=torch.float32, device="cuda")

            def call(layer: int) -> None:
                k, v = keys[layer], values[layer]
                launch_overlapping(
                    decode, (8, slots), out, partial, top, arrived, q, k, v, table, lens, lens, seqs, *q.stride()[:2],
                    *k.stride()[:3], *v.stride()[:3], table.stride(0), 128**-0.5, FRONT=0, GROUP=group, CAP=0.0,
                    WINDOW=0, HEAD_DIM=128, V_HEAD_DIM=128, PAGE_SIZE=16, BLOCK_B=64 if seqs <= 64 else 256, BLOCK_G=16,
                    BLOCK_M=group, BLOCK_S=32 * warps // group, BLOCK_N=block, BLOCK_D=128, BLOCK_V=128, PIECES=pieces,
                    LEAST=LEAST, num_warps=warps, num_stages=stages,
                )  # fmt: skip

            call(0)
            error = ((out[:4] - expected).norm() / expected.norm()).item()
            us = replayed([lambda layer=layer: call(layer) for layer in range(layers)])  # type: ignore[misc]
            found.append((us, block, stages, warps, programs, pieces, error))
        found.sort()
        for us, block, stages, warps, programs, pieces, error in found[:6]:
            say("attention", group=group, seqs=seqs, lens=[low, high], us=us, tb_s=total / us / 1e6, block=block,
                stages=stages, warps=warps, programs=programs, pieces=pieces, error=error)  # fmt: skip
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
