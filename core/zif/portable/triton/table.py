"""Launcher of what reads the request table before a decode step."""

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
) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """See :func:`zif.ops.table.decode_inputs`; a launch a cache group, ``kv_len`` and ``pages`` updated in place."""
    (seqs,) = rows.shape

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=rows.device)

    common = (empty(seqs), empty(seqs), empty(seqs), empty(seqs + 1))
    tables = {group: empty(seqs, width) for group in pages}
    block = min(power_of_two(width), 1024)
    constants = {"SEQS": power_of_two(seqs), "BLOCK": block, "num_warps": 1 if max(block, seqs) <= 128 else 4}
    for place, (group, table) in enumerate(pages.items()):
        arguments = (
            *common, tables[group], rows, tokens, last_token, kv_len, table, page_rows, page_indices, page_ids[group],
            seqs, width, table.stride(0),
        )  # fmt: skip
        launch(device.decode_inputs, (seqs, ceil_div(width, block)), *arguments, FIRST=place == 0, **constants)
    return *common, tables, kv_len, dict(pages)
