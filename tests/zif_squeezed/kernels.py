"""Writing and reading squeezed pages, in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from zif.contract import AttentionSpec, KernelSet, OpRequest, Step, kernel
from zif.reference.torch.attention import attend
from zif_squeezed.format import NARROW, OUTLIER, SCALE, WIDE, Record, Squeezed

Tensor = torch.Tensor


class SqueezedKernels(KernelSet):
    """What reads and writes a squeezed cache; refuses every other."""

    provider = "squeezed"
    level = 1

    def _squeezed(self, request: OpRequest) -> str | None:
        if request["cache_layout"] == Squeezed.layout:
            return None
        return f"takes a cache in {Squeezed.name}, not {request['cache_format']}"

    @kernel("kv_write", when=_squeezed, makes=True, capturable=False)
    def kv_write(self, request: OpRequest, ops: Any) -> Callable[..., Any]:
        keys, values = _records(request)

        def run(k: Tensor, v: Tensor, cache: Any, layer: int, step: Step, spec: AttentionSpec) -> Any:
            group, tables = cache[spec.group], step.pages[spec.group].tolist()
            positions, seqs = step.positions.tolist(), step.seqs.tolist()
            for token in range(int(step.num_tokens)):
                index, offset = divmod(positions[token], keys.page_size)
                page = tables[seqs[token]][index]
                for name, record, rows in (("k", keys, k), ("v", values, v)):
                    _append(group[f"{name}_bytes"][layer, page], group[f"{name}_index"][layer, page], offset, record,
                            rows[token])  # fmt: skip
            return cache

        return run

    @kernel("paged_attention", when=_squeezed, makes=True, capturable=False)
    def paged_attention(self, request: OpRequest, ops: Any) -> Callable[..., Tensor]:
        keys, values = _records(request)

        def run(q: Tensor, cache: Any, layer: int, step: Step, spec: AttentionSpec) -> Tensor:
            group = cache[spec.group]
            out = torch.zeros((q.shape[0], spec.q_heads, spec.v_head_dim), dtype=q.dtype)
            starts = step.query_starts.tolist()
            for row, length in enumerate(step.kv_lens.tolist()):
                begin, end = starts[row], starts[row + 1]
                if begin < end and length:
                    pages = step.pages[spec.group][row, : -(-length // keys.page_size)]
                    k, v = (
                        _tokens(
                            group[f"{name}_bytes"][layer, pages], group[f"{name}_index"][layer, pages], record, length
                        )
                        for name, record in (("k", keys), ("v", values))
                    )
                    out[begin:end] = attend(q[begin:end], k, v, length - (end - begin), spec)
            return out

        return run


def _records(request: OpRequest) -> tuple[Record, Record]:
    heads, size = request["kv_heads"], request["page_size"]
    return Record(heads, request["head_dim"], size), Record(heads, request["v_head_dim"], size)


def _append(page: Tensor, index: Tensor, offset: int, record: Record, rows: Tensor) -> None:
    """Write the token at ``offset`` of a page, behind the one before it: ``rows`` [heads, dim]."""
    start = int(index[offset]) if offset else 0
    wide_before = (start - offset * record.narrow) // (record.wide - record.narrow)
    x = rows.float()
    largest, mean = x.abs().amax(-1, keepdim=True), x.abs().mean(-1, keepdim=True)
    wide = wide_before < record.most_wide and bool((largest > OUTLIER * mean).any())
    scale = largest / (WIDE if wide else NARROW)
    integers = (x / torch.where(scale > 0, scale, 1.0)).round().to(torch.int8)
    if wide:
        payload = integers.view(torch.uint8)
    else:
        nibbles = (integers + 8).view(torch.uint8)
        payload = nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)
    written = torch.cat([scale.contiguous().view(torch.uint8), payload], dim=-1).flatten()
    page[start : start + len(written)] = written
    index[offset + 1] = start + len(written)


def _tokens(pages: Tensor, index: Tensor, record: Record, length: int) -> Tensor:
    """The first ``length`` tokens of ``pages`` [n, bytes]: [length, heads, dim] float32."""
    ends = index[:, 1 : record.page_size + 1]
    begins = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], dim=-1)
    wide = (ends - begins == record.wide).flatten()[:length]
    at = begins[..., None] + torch.arange(record.wide)
    taken = pages[:, None].expand(-1, record.page_size, -1).gather(-1, at.clamp(0, record.nbytes - 1).long())
    taken = taken.flatten(0, 1)[:length]
    narrow = taken[:, : record.narrow].unflatten(-1, (record.heads, -1))
    nibbles = torch.stack([narrow[..., SCALE:] & 15, narrow[..., SCALE:] >> 4], dim=-1).flatten(-2).float() - 8
    full = taken.unflatten(-1, (record.heads, -1))
    of_narrow = nibbles * narrow[..., :SCALE].contiguous().view(torch.float32)
    of_wide = full[..., SCALE:].contiguous().view(torch.int8).float() * full[..., :SCALE].contiguous().view(
        torch.float32
    )
    return torch.where(wide[:, None, None], of_wide, of_narrow)
