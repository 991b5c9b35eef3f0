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

from zif.portable.triton.attention import SOME
from zif.portable.triton.device.decode import decode

BF16 = {"dtype": torch.bfloat16, "device": "cuda"}
INT = {"dtype": torch.int32, "device": "cuda"}
EPS = 1e-6


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


TILES = ((32, 3, True), (64, 3, False), (64, 5, False), (128, 3, False), (128, 3, True))
"""(positions, stages, LATE)."""
CASES = (
    (2, 256, 600, 600), (2, 256, 100, 1500), (2, 128, 100, 1500), (2, 96, 640, 700), (2, 32, 100, 1500),
    (2, 8, 100, 1500), (2, 4, 100, 1500), (2, 1, 400, 400), (4, 256, 100, 1500), (4, 32, 100, 1500), (4, 1, 400, 400),
    (4, 1, 4000, 4000),
)  # fmt: skip
"""(query heads a kv head, sequences, least and most positions); those of two are normalised."""


def attention(*only: str) -> None:
    """Decode attention: tiles, stages and pieces, over batches alike and ragged.

    ``only``: the numbers of cases to run (or, with "compile", of tiles to call once, to time none), "fp8" for a cache
    of eight bits.
    """
    generator = torch.Generator().manual_seed(0)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    timed, narrow = "compile" not in only, "fp8" in only
    chosen = {int(word) for word in only if word.isdecimal()}
    for number, (group, seqs, low, high) in enumerate(CASES):
        if (chosen and number not in chosen) if timed else number not in (0, 7, 8, 10):
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
        product = torch.randn(seqs, 8 * group + 16, 128, **BF16)
        q, k_new, v_new = product.split([8 * group, 8, 8], 1)
        out = torch.empty(seqs, 8 * group, 128, **BF16)
        arrived = torch.zeros(seqs, 8, **INT)
        lens, table, norm = lens.cuda(), table.cuda(), torch.ones(128, **BF16)
        angles = torch.cat([torch.ones(seqs, 64), torch.zeros(seqs, 64)], 1).cuda()  # q and k are not turned
        found: list[tuple[float, ...]] = []
        for at, (block, stages, late) in enumerate(TILES):
            if not timed and chosen and at not in chosen:
                continue
            for wanted in _cuts(processors // 8, seqs) if timed else [8]:
                partial = torch.empty(wanted + seqs, 8, group, 128, dtype=torch.float32, device="cuda")
                top = torch.empty(wanted + seqs, 8, group, dtype=torch.float32, device="cuda")

                def call(layer: int) -> None:
                    k, v = keys[layer], values[layer]
                    launch_overlapping(
                        decode, (8, wanted + seqs), out, partial, top, arrived, q, k, v, table, lens, k_new, v_new,
                        norm, norm, angles, seqs, wanted, *q.stride()[:2], *k.stride()[:3], *v.stride()[:3],
                        table.stride(0), *k_new.stride()[:2], *v_new.stride()[:2], 128**-0.5, EPS, 0.0, GROUP=group,
                        CAP=0.0, WINDOW=0, HEAD_DIM=128, V_HEAD_DIM=128, PAGE_SIZE=16, FRESH=seqs <= SOME,
                        NORM=group == 2, ROTARY=128, LATE=late,
                        INTERLEAVED=False, BLOCK_B=16 if seqs <= 4 else 256, BLOCK_G=16, BLOCK_M=group,
                        BLOCK_S=(8192 if seqs <= 4 else 4096) // (128 * group),
                        BLOCK_N=block, BLOCK_D=128, BLOCK_V=128, num_warps=4, num_stages=stages,
                    )  # fmt: skip

                call(0)
                if not timed:
                    continue
                rows = q[:4].float()
                if group == 2 and seqs <= SOME:
                    rows *= torch.rsqrt((rows * rows).mean(-1, keepdim=True) + EPS)
                expected = _attended(rows, keys[0], values[0], table[:4], lens[:4], group)
                error = ((out[:4] - expected).norm() / expected.norm()).item()
                us = replayed([lambda layer=layer: call(layer) for layer in range(layers)])  # type: ignore[misc]
                found.append((us, block, stages, late, wanted, error))
        found.sort()
        for us, block, stages, late, wanted, error in found[:6]:
            say("attention", group=group, seqs=seqs, lens=[low, high], us=us, tb_s=total / us / 1e6, block=block,
                stages=stages, late=late, wanted=wanted, error=error)  # fmt: skip
        if timed:
            assert not arrived.any()
            say("attention", worst_error=max(f[-1] for f in found), variants=len(found))


def _cuts(slots: int, seqs: int) -> list[int]:
    """Numbers of pieces wanted, where a program to a processor is ``slots`` for each kv head."""
    even = {slots * turns for turns in (1, 2, 3, 4, 6, 8, 12, 16)}
    return sorted(even | {slots * programs - seqs // 2 for programs in (1, 2, 3, 4) if slots * programs > seqs // 2})


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
