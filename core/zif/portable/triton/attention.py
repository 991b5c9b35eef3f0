"""Launchers of attention over pages: which tiles, and into how many pieces histories are cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from zif.contract.arrays import dtype_bytes
from zif.contract.attention import AttentionSpec
from zif.contract.formats import plain_dtype, unless_plain
from zif.contract.opspec import OpRequest
from zif.contract.step import Step
from zif.portable.triton.device import attention as device
from zif.portable.triton.device import decode as device_decode
from zif.portable.triton.launching import FLOATS, Launch, Machine, ceil_div, power_of_two
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
DECODE_PROGRAMS = 8
"""Programs of a decode step that run at once on a processor, of one warp each.

Two to each of its four schedulers, whose registers have room for no more: a third would leave a lane 168."""
DECODE_STAGES = 3
"""Of the tiles of a decode step: two are on their way while one is worked on."""
PIECES, LEAST = 24, 16
"""Most pieces of a history, or one more where it begins within a share; more where each has more than LEAST tiles."""
SEQUENCES = (64, 256)
"""Sequences that a decode step is compiled for; for more, the next power of two."""
FRONT = 24
"""Least sequences of one token, at the front of a step of any tokens, that are worth the launch of decode's kernel."""
WARP, HELD, JOINED = 32, 96, 128
"""Lanes of a warp, registers of a lane that queries and sums of a decode step may take, and that joined pieces do."""
RESERVED = 1024
"""Bytes of shared memory that the device takes for each program."""
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
    if (refusal := unless_plain(request, *sorted(known))) is not None:
        return refusal
    if max(request["head_dim"], request["v_head_dim"]) > MAX_HEAD:
        return f"takes heads of up to {MAX_HEAD}, not {request['head_dim']} and {request['v_head_dim']}"
    if request["q_heads"] > MAX_GROUP * request["kv_heads"]:
        return f"takes up to {MAX_GROUP} query heads a kv head, not {request['q_heads'] // request['kv_heads']}"
    if not _Decode.of(request, kernels.machine.shared_bytes).programs:
        return f"needs more than the {kernels.machine.shared_bytes} bytes of shared memory that the device has"
    return None


class _Tiles:
    """Tiles of keys and values for a request: BLOCK_N positions, ``stages`` of them on their way at once."""

    def __init__(self, request: OpRequest, block: int, stages: int) -> None:
        self.block_n, self.stages = block, stages
        self.block_d = max(power_of_two(request["head_dim"]), MIN_DOT)
        self.block_v = max(power_of_two(request["v_head_dim"]), MIN_DOT)
        self.nbytes = stages * block * (self.block_d + self.block_v) * _kept_bytes(request)


def _tiles(request: OpRequest, budget: int, widest: int) -> _Tiles:
    """The largest tiles of up to ``widest`` positions that fit ``budget`` bytes, or else the smallest there are."""
    for block, stages in ((64, 3), (64, 2), (32, 3), (32, 2), (32, 1)):
        tiles = _Tiles(request, block, stages)
        if block <= widest and tiles.nbytes <= budget and block * (tiles.block_d + tiles.block_v) <= MAX_TILE:
            return tiles
    return _Tiles(request, MIN_DOT, 1)


class _Decode(NamedTuple):
    """How decode steps are run: ``programs`` to a processor, of so many ``warps``; none if nothing fits."""

    tiles: _Tiles
    warps: int
    programs: int

    @classmethod
    def of(cls, request: OpRequest, budget: int) -> _Decode:
        """With as few warps as have registers for the queries of a kv head, and as many programs as there is room for.

        ``budget``: bytes of shared memory of a processor. Where not even one fits, fewer tiles are on their way.
        """
        rows, size = max(power_of_two(request["q_heads"] // request["kv_heads"]), MIN_DOT), dtype_bytes(request.dtype)
        tiles = _Tiles(request, MIN_DOT, DECODE_STAGES)
        held = rows * (tiles.block_v + tiles.block_d * size // 4)
        warps = 4 if request.dtype == "float32" else power_of_two(ceil_div(held, WARP * HELD))
        for stages in range(DECODE_STAGES, 0, -1):
            waiting = _Tiles(request, MIN_DOT, stages - 1).nbytes
            room = budget // (waiting + rows * tiles.block_d * size + RESERVED)
            if room:
                break
        return cls(_Tiles(request, MIN_DOT, stages), warps, min(DECODE_PROGRAMS // warps, room))


@dataclass(frozen=True, slots=True)
class PagedAttention:
    """Attention as one request has it: all that is chosen, is chosen from sizes known at load.

    A decode step's histories are cut into pieces on the device, so that a captured launch serves any lengths.
    """

    launch: Launch
    machine: Machine
    kv_heads: int
    group: int
    decoding: _Decode
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
        budget, decoding = machine.shared_bytes, _Decode.of(request, machine.shared_bytes)
        rows, block_d = max(UNROLLED, power_of_two(group)) if unrolled else 128, decoding.tiles.block_d
        while rows > MAX_GROUP and rows * block_d * dtype_bytes(request.dtype) > budget // 4:
            rows //= 2
        q_bytes = rows * block_d * dtype_bytes(request.dtype)
        ragged_tiles = _tiles(request, budget - q_bytes, UNROLLED if unrolled else 64)
        return cls(launch, machine, kv_heads, group, decoding, ragged_tiles, rows)

    def __call__(self, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Tensor:
        """As the op ``paged_attention``."""
        out = torch.empty((q.shape[0], spec.q_heads, spec.v_head_dim), dtype=q.dtype, device=q.device)
        if not step.shape.decode:
            self._ragged(out, q, cache, layer, step, spec)
        if step.shape.decode or step.shape.seqs >= FRONT:
            self.front(out, q, cache, layer, step, spec)
        return out

    @property
    def least_front(self) -> int:
        """How many sequences :meth:`front` takes, at least, of a step that is not a decode step."""
        return FRONT

    def front(self, out: Tensor, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> None:
        """Into the first rows of ``out``, of the sequences at the front that have one token each.

        In a decode step these are all. In another they are none, unless they are :attr:`least_front` or more.
        """
        q, pages = dense_rows(q), dense_rows(step.pages[spec.group])
        seqs, run = step.kv_lens.shape[0], self.decoding
        keys, values = cache[spec.group]["k"][layer], cache[spec.group]["v"][layer]
        programs = max(self.machine.processors * run.programs // spec.kv_heads, 1)
        lines = (programs + seqs, spec.kv_heads, self.group)
        partial = torch.empty((*lines, spec.v_head_dim), dtype=torch.float32, device=q.device)
        top = torch.empty(lines, dtype=torch.float32, device=q.device)
        members = power_of_two(self.group)
        self.launch(
            device_decode.decode,
            (spec.kv_heads, programs),
            *(out, partial, top, self._counters(seqs, q.device), q, keys, values, pages, step.query_starts),
            *(step.kv_lens, seqs, *_strides(q, keys, values, pages), spec.scale),
            FRONT=0 if step.shape.decode else FRONT,
            BLOCK_B=next((size for size in SEQUENCES if seqs <= size), power_of_two(seqs)),
            BLOCK_G=max(members, MIN_DOT),
            BLOCK_M=members,
            BLOCK_S=max(WARP * run.warps * JOINED // (members * run.tiles.block_v), 1),
            PIECES=PIECES,
            LEAST=LEAST,
            num_warps=run.warps,
            **self._constants(spec, keys.shape[1], run.tiles),
        )

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

    def _ragged(self, out: Tensor, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> None:
        """Into ``out``, of those sequences of a step of any tokens that :meth:`front` leaves."""
        q, pages = dense_rows(q), dense_rows(step.pages[spec.group])
        tokens, seqs = q.shape[0], step.kv_lens.shape[0]
        keys, values = cache[spec.group]["k"][layer], cache[spec.group]["v"][layer]
        rows = min(self.ragged_rows, max(power_of_two(tokens * self.group), MAX_GROUP))
        queries = rows // self.group
        self.launch(
            device.ragged,
            (tokens // queries + seqs, spec.kv_heads),
            *(out, q, keys, values, pages, step.query_starts, step.kv_lens, seqs),
            *(*_strides(q, keys, values, pages), spec.scale),
            BLOCK_Q=queries,
            BLOCK_M=rows,
            FRONT=FRONT,
            num_warps=8 if rows * self.ragged_tiles.block_v > 64 * 128 else 4,  # 64 sums a lane at the most
            **self._constants(spec, keys.shape[1], self.ragged_tiles),
        )

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


def _kept_bytes(request: OpRequest) -> int:
    """Bytes of a number in a plain cache."""
    dtype = plain_dtype(request)
    assert dtype is not None, "a kernel of plain caches was asked what another costs"
    return dtype_bytes(dtype)
