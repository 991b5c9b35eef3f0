"""Launchers of attention over pages: which tiles, and into how many pieces histories are cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from zif.contract.arrays import dtype_bytes
from zif.contract.attention import AttentionSpec
from zif.contract.ops import OpRequest
from zif.contract.step import Step
from zif.portable.triton.device import attention as device
from zif.portable.triton.device import decode as device_decode
from zif.portable.triton.launching import FLOATS, Launch, Machine, power_of_two
from zif.portable.triton.layers import dense_rows

Tensor = torch.Tensor
MAX_HEAD = 256
"""Longest head that fits in a tile."""
MAX_GROUP = 64
"""Most query heads of a kv head that a tile takes."""
COUNTERS = 1024
"""Sequences that there are counters for from the start."""
MAX_TILE = 64 * 256
"""Most numbers in a tile of keys and values: registers hold it on its way."""
FEW, SOME = 4, 64
"""Sequences of a decode step up to which latency is all there is to hide, and up to which it is worth registers.

Beyond, each processor takes programs in turn: they do as little as they can before they ask for keys.
"""
TURNS = 4
"""Pieces of all histories for each program that runs at once, where there are enough of them to even out."""
DECODE_SCRATCH = 10240
"""Bytes of shared memory that a program of a decode step needs beside its tiles."""
MIN_DOT = 16
"""Least extent of a tile that is multiplied."""
UNROLLED = 32
"""Rows and positions of a tile in float32, which no tensor core multiplies exactly: what is compiled of it is every
single product, and took half a minute for tiles as large as those of 16 bits."""


def attention_fits(kernels: Any, request: OpRequest) -> str | None:
    """``when=`` of paged_attention: a reason against it, or None."""
    known = {request.dtype, *kernels.machine.cache_dtypes}
    if request.dtype not in FLOATS:
        return f"takes {', '.join(FLOATS)}, not {request.dtype}"
    if request["cache_dtype"] not in known:
        return f"reads a cache of {', '.join(sorted(known))}, not {request['cache_dtype']}"
    if max(request["head_dim"], request["v_head_dim"]) > MAX_HEAD:
        return f"takes heads of up to {MAX_HEAD}, not {request['head_dim']} and {request['v_head_dim']}"
    if request["q_heads"] > MAX_GROUP * request["kv_heads"]:
        return f"takes up to {MAX_GROUP} query heads a kv head, not {request['q_heads'] // request['kv_heads']}"
    smallest = _Tiles(request, MIN_DOT, 1)
    if smallest.nbytes > kernels.machine.shared_bytes:
        return f"needs tiles of {smallest.nbytes} bytes, more than {kernels.machine.shared_bytes} that the device has"
    return None


class _Tiles:
    """Tiles of keys and values for a request: BLOCK_N positions, ``stages`` of them on their way at once."""

    def __init__(self, request: OpRequest, block: int, stages: int) -> None:
        self.block_n, self.stages = block, stages
        self.block_d = max(power_of_two(request["head_dim"]), MIN_DOT)
        self.block_v = max(power_of_two(request["v_head_dim"]), MIN_DOT)
        self.nbytes = stages * block * (self.block_d + self.block_v) * dtype_bytes(request["cache_dtype"])


def _tiles(request: OpRequest, budget: int, widest: int) -> _Tiles:
    """The largest tiles of up to ``widest`` positions that fit ``budget`` bytes, or else the smallest there are."""
    for block, stages in ((64, 3), (64, 2), (32, 3), (32, 2), (32, 1)):
        tiles = _Tiles(request, block, stages)
        if block <= widest and tiles.nbytes <= budget and block * (tiles.block_d + tiles.block_v) <= MAX_TILE:
            return tiles
    return _Tiles(request, MIN_DOT, 1)


class _Decode(NamedTuple):
    """How decode steps are run: ``programs`` to a processor, compiled for ``seqs`` sequences or more.

    ``joined``: numbers of a cut history's pieces that are joined at a time, in registers. ``late``: as the kernel's
    LATE, which has the lower latency, and leaves room for fewer programs.
    """

    tiles: _Tiles
    programs: int
    seqs: int
    joined: int
    late: bool

    @classmethod
    def of(
        cls, request: OpRequest, budget: int, widest: int, programs: int, seqs: int, joined: int, *, late: bool = False
    ) -> _Decode:
        """With the largest tiles of up to ``widest`` positions that ``budget`` bytes have room for.

        Page ids are fetched a turn ahead of what they lead to, so that of three stages one is of keys and values, and
        two are of five. Elements of one byte are widened in registers, which have no room for 128 positions of them.
        """
        ahead, blocks = (2, (64, 32)) if dtype_bytes(request["cache_dtype"]) == 1 else (1, (128, 64, 32))
        for fewer in range(programs, 0, -1):  # before tiles so small that nothing is on its way while one is worked on
            room = budget // fewer - DECODE_SCRATCH
            for block in blocks:
                if block <= widest and _Tiles(request, block, ahead).nbytes <= room:
                    return cls(_Tiles(request, block, 2 * ahead + 1), fewer, seqs, joined, late)
        return cls(_Tiles(request, MIN_DOT, 1), programs, seqs, joined, late)

    def pieces(self, seqs: int, at_once: int) -> int:
        """How many pieces to make of the histories of ``seqs`` sequences, of which ``at_once`` are worked on at a time.

        No more than run at once, the last ones of histories included, if that leaves enough of them to be even.
        """
        return at_once - seqs // 2 if seqs <= at_once else TURNS * at_once


@dataclass(frozen=True, slots=True)
class Fresh:
    """What a decode step adds: ``k`` [T, kv_heads, head_dim] and ``v``, as linears leave them, and what turns them."""

    k: Tensor
    v: Tensor
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    angles: Tensor | None = None

    @classmethod
    def of(
        cls, k: Tensor, v: Tensor, spec: AttentionSpec, angles: Tensor | None, q_norm: Tensor | None,
        k_norm: Tensor | None,
    ) -> Fresh:  # fmt: skip
        """Of the arguments of the op ``attention``."""
        if spec.rope is not None:
            assert angles is not None, "the spec rotates, and there are no angles"
            angles = angles.contiguous()
        if spec.qk_norm_eps is not None:
            assert q_norm is not None and k_norm is not None, "the spec normalises q and k, and there are no weights"
        return cls(dense_rows(k), dense_rows(v), q_norm, k_norm, angles)

    def arrays(self) -> tuple[Tensor, ...]:
        """In the kernel's order; ``k`` for what is not there."""
        return (self.k, self.v, *(self.k if x is None else x for x in (self.q_norm, self.k_norm, self.angles)))


@dataclass(frozen=True, slots=True)
class PagedAttention:
    """Attention as one request has it: all that is chosen, is chosen from sizes known at load.

    A decode step's histories are cut into pieces on the device, so that a captured launch serves any lengths.
    """

    launch: Launch
    machine: Machine
    kv_heads: int
    group: int
    few: _Decode
    some: _Decode
    many: _Decode
    ragged_tiles: _Tiles
    ragged_rows: int
    counters: dict[torch.device, Tensor] = field(default_factory=dict)
    outgrown: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, request: OpRequest, machine: Machine, launch: Launch) -> PagedAttention:
        """What serves ``request`` on ``machine``."""
        kv_heads = request["kv_heads"]
        group = request["q_heads"] // kv_heads
        unrolled = request.dtype == "float32"
        budget, widest = machine.shared_bytes, UNROLLED if unrolled else 128
        few = _Decode.of(request, budget, widest=32, programs=1, seqs=16, joined=8192, late=True)
        # programs hide each other's waiting: as many as there are registers for
        many = _Decode.of(request, budget, widest=widest, programs=3, seqs=256, joined=4096)
        some = many
        if not unrolled:
            some = _Decode.of(request, budget, widest=widest, programs=2, seqs=SOME, joined=4096, late=True)
        rows, block_d = max(UNROLLED, power_of_two(group)) if unrolled else 128, many.tiles.block_d
        while rows > MAX_GROUP and rows * block_d * dtype_bytes(request.dtype) > budget // 4:
            rows //= 2
        q_bytes = rows * block_d * dtype_bytes(request.dtype)
        ragged_tiles = _tiles(request, budget - q_bytes, UNROLLED if unrolled else 64)
        return cls(launch, machine, kv_heads, group, few, some, many, ragged_tiles, rows)

    def __call__(self, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Tensor:
        """As the op ``paged_attention``."""
        run = self.decode if step.shape.decode else self.ragged
        return run(q, cache, layer, step, spec)

    def decode(
        self,
        q: Tensor,
        cache: Any,
        layer: Any,
        step: Step,
        spec: AttentionSpec,
        fresh: Fresh | None = None,
    ) -> Tensor:
        """Attention of a decode step; with ``fresh``, q is as a linear left it, k and v are not written yet."""
        q, pages = dense_rows(q), dense_rows(step.pages[spec.group])
        keys, values = cache[spec.group]["k"][layer], cache[spec.group]["v"][layer]
        out = torch.empty((q.shape[0], spec.q_heads, spec.v_head_dim), dtype=q.dtype, device=q.device)
        seqs = q.shape[0]
        run = self.few if seqs <= FEW else self.some if seqs <= SOME else self.many
        wanted = run.pieces(seqs, max(self.machine.processors * run.programs // spec.kv_heads, 1))
        lines = (wanted + seqs, spec.kv_heads, self.group)
        partial = torch.empty((*lines, spec.v_head_dim), dtype=torch.float32, device=q.device)
        top = torch.empty(lines, dtype=torch.float32, device=q.device)
        members = power_of_two(self.group)
        new = fresh or Fresh(q, q)
        self.launch(
            device_decode.decode,
            (spec.kv_heads, wanted + seqs),
            *(out, partial, top, self._counters(seqs, q.device), q, keys, values, pages, step.kv_lens, *new.arrays()),
            *(seqs, wanted, *_strides(q, keys, values, pages), *new.k.stride()[:2], *new.v.stride()[:2]),
            *(spec.scale, spec.qk_norm_eps or 0.0, spec.qk_norm_offset),
            FRESH=fresh is not None,
            NORM=spec.qk_norm_eps is not None,
            ROTARY=spec.rope.rotary_dim if spec.rope is not None else 0,
            INTERLEAVED=spec.rope is not None and spec.rope.interleaved,
            BLOCK_B=max(power_of_two(seqs), run.seqs),
            BLOCK_G=max(members, MIN_DOT),
            BLOCK_M=members,
            BLOCK_S=max(run.joined // (members * run.tiles.block_v), 1),
            LATE=run.late,
            num_warps=4,
            **self._constants(spec, keys.shape[1], run.tiles),
        )
        return out

    def _counters(self, seqs: int, device: torch.device) -> Tensor:
        """Zeros, [seqs or more, kv_heads], that every call leaves as it found them.

        Those that are too few for a step are kept: graphs that were recorded of smaller ones go on counting in them.
        """
        kept = self.counters.get(device)
        if kept is None or len(kept) < seqs:
            if kept is not None:
                self.outgrown.append(kept)
            shape = (max(power_of_two(seqs), COUNTERS), self.kv_heads)
            kept = self.counters[device] = torch.zeros(shape, dtype=torch.int32, device=device)
        return kept

    def ragged(self, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Tensor:
        """Attention of a step of any tokens."""
        q, pages = dense_rows(q), dense_rows(step.pages[spec.group])
        keys, values = cache[spec.group]["k"][layer], cache[spec.group]["v"][layer]
        out = torch.empty((q.shape[0], spec.q_heads, spec.v_head_dim), dtype=q.dtype, device=q.device)
        tokens, seqs = q.shape[0], step.kv_lens.shape[0]
        rows = min(self.ragged_rows, max(power_of_two(tokens * self.group), MAX_GROUP))
        queries = rows // self.group
        self.launch(
            device.ragged,
            (tokens // queries + seqs, spec.kv_heads),
            *(out, q, keys, values, pages, step.query_starts, step.kv_lens, seqs),
            *(*_strides(q, keys, values, pages), spec.scale),
            BLOCK_Q=queries,
            BLOCK_M=rows,
            num_warps=8 if rows * self.ragged_tiles.block_v > 64 * 128 else 4,  # 64 sums a lane at the most
            **self._constants(spec, keys.shape[1], self.ragged_tiles),
        )
        return out

    def _constants(self, spec: AttentionSpec, page_size: int, tiles: _Tiles) -> Mapping[str, Any]:
        return {
            "GROUP": self.group,
            "CAP": spec.softcap or 0.0,
            "WINDOW": spec.window or 0,
            "HEAD_DIM": spec.head_dim,
            "V_HEAD_DIM": spec.v_head_dim,
            "PAGE_SIZE": page_size,
            "BLOCK_N": tiles.block_n,
            "BLOCK_D": tiles.block_d,
            "BLOCK_V": tiles.block_v,
            "num_stages": tiles.stages,
        }


def _strides(q: Tensor, keys: Tensor, values: Tensor, pages: Tensor) -> tuple[int, ...]:
    return (q.stride(0), q.stride(1), *keys.stride()[:3], *values.stride()[:3], pages.stride(0))
