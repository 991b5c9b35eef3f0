"""Launchers of what reads the request table before a step."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from zif.portable.triton.device import table as device
from zif.portable.triton.launching import Launch, ceil_div, power_of_two

Tensor = torch.Tensor


def decode_inputs(
    launch: Launch,
    rows: Tensor,
    tokens: Tensor,
    last_token: Tensor,
    kv_len: Tensor,
    pages: Mapping[str, Tensor],
    page_rows: Tensor,
    page_indices: Tensor,
    page_ids: Mapping[str, Tensor],
    width: int,
    factors: Mapping[str, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """See :func:`zif.contract.ops.table.decode_inputs`; a launch a group, ``kv_len`` and ``pages`` updated in place."""
    (seqs,) = rows.shape

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=rows.device)

    common = (empty(seqs), empty(seqs), empty(seqs), empty(seqs + 1))
    tables = {group: empty(seqs, ceil_div(width, factors[group])) for group in pages}
    for place, (group, table) in enumerate(pages.items()):
        columns = tables[group].shape[1]
        block = min(power_of_two(columns), 1024)
        arguments = (
            *common, tables[group], rows, tokens, last_token, kv_len, table, page_rows, page_indices, page_ids[group],
            seqs, columns, table.stride(0),
        )  # fmt: skip
        launch(
            device.decode_inputs, (seqs, ceil_div(columns, block)), *arguments, FIRST=place == 0,
            FACTOR=factors[group], SEQS=power_of_two(seqs), BLOCK=block, num_warps=1 if max(block, seqs) <= 128 else 4,
        )  # fmt: skip
    return *common, tables, kv_len, dict(pages)


def mixed_inputs(
    launch: Launch,
    rows: Tensor,
    tokens: Tensor,
    query_starts: Tensor,
    num_tokens: Tensor,
    last_token: Tensor,
    kv_len: Tensor,
    pages: Mapping[str, Tensor],
    width: int,
    factors: Mapping[str, int],
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor], Tensor]:
    """See :func:`zif.contract.ops.table.mixed_inputs`; a launch a cache group, ``kv_len`` updated in place."""
    (seqs,), (total,) = rows.shape, tokens.shape
    common = (torch.empty_like(tokens), torch.empty_like(tokens), torch.empty_like(rows))
    tables = {
        group: torch.empty((seqs, ceil_div(width, factors[group])), dtype=torch.int32, device=rows.device)
        for group in pages
    }
    for place, (group, table) in enumerate(pages.items()):
        arguments = (
            *common, tables[group], rows, tokens, query_starts, num_tokens, last_token, kv_len, table,
            seqs, total, tables[group].shape[1], table.stride(0),
        )  # fmt: skip
        launch(device.mixed_inputs, (seqs + 1,), *arguments, FIRST=place == 0, BLOCK=512, num_warps=4)
    return *common, tables, kv_len
