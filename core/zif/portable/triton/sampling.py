"""Launchers of the sampler's kernels."""

from __future__ import annotations

import torch

from zif.contract.ops.threefry import BLOCK
from zif.portable.triton.device import filter as device_filter
from zif.portable.triton.device import logprobs as device_logprobs
from zif.portable.triton.device import sampling as device
from zif.portable.triton.launching import Launch, ceil_div, power_of_two
from zif.portable.triton.layers import dense_rows

Tensor = torch.Tensor
CHUNK = 4096
"""Logits that one program of a first stage takes."""


def _chunk(vocab: int) -> int:
    return min(power_of_two(vocab), CHUNK)


Draws = tuple[Tensor, Tensor, Tensor]
"""temperature, seed, position"""
Keep = tuple[Tensor, Tensor]
"""rows, last_token"""


def choose(launch: Launch, logits: Tensor, draws: Draws | None = None, keep: Keep | None = None) -> Tensor:
    """[R] int32: argmax of each row, of perturbed logits where there are ``draws``.

    With ``keep`` the draws are a table's, and the tokens are written there.
    """
    logits = dense_rows(logits)
    rows, vocab = logits.shape
    blocks = ceil_div(vocab, BLOCK)
    scores = torch.empty((rows, blocks), dtype=torch.float32, device=logits.device)
    out = torch.empty(rows, dtype=torch.int32, device=logits.device)
    temperature, *bits = [one.contiguous() for one in draws] if draws is not None else [logits] * 3
    of_row, last = keep if keep is not None else (out, out)
    kind = {"RANDOM": draws is not None, "TABLE": keep is not None}
    sizes = (vocab, blocks, logits.stride(0))
    count = min(power_of_two(blocks), CHUNK // BLOCK)
    grid = (rows, ceil_div(blocks, count))
    launch(device.score_blocks, grid, scores, logits, of_row, temperature, *sizes, **kind, COUNT=count, num_warps=8)
    arguments = (out, last, scores, logits, of_row, temperature, *bits, *sizes)
    launch(device.choose_token, (rows,), *arguments, **kind, BLOCKS=power_of_two(blocks), num_warps=4)
    return out


def filter_logits(
    launch: Launch, logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor
) -> Tensor:
    """[R, V], a program a row."""
    logits = dense_rows(logits)
    rows, vocab = logits.shape
    out = torch.empty((rows, vocab), dtype=torch.float32, device=logits.device)
    settings = [setting.contiguous() for setting in (temperature, top_k, top_p, min_p)]
    block = min(power_of_two(vocab), 8192)
    arguments = (out, logits, *settings, vocab, logits.stride(0))
    launch(device_filter.filter_logits, (rows,), *arguments, BLOCK=block, num_warps=16)
    return out


def penalize(
    launch: Launch,
    logits: Tensor,
    output_counts: Tensor,
    in_prompt: Tensor,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
) -> Tensor:
    """[R, V]"""
    logits, output_counts, in_prompt = dense_rows(logits), dense_rows(output_counts), dense_rows(in_prompt)
    rows, vocab = logits.shape
    out = torch.empty((rows, vocab), dtype=torch.float32, device=logits.device)
    chunk = _chunk(vocab)
    settings = [setting.contiguous() for setting in (repetition, presence, frequency)]
    strides = (logits.stride(0), output_counts.stride(0), in_prompt.stride(0))
    arguments = (out, logits, output_counts, in_prompt, *settings, vocab, *strides)
    launch(device.penalize, (rows, ceil_div(vocab, chunk)), *arguments, BLOCK=chunk, num_warps=8)
    return out


def logprobs(launch: Launch, logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """([R] float32, [R] int32, [R, top] int32, [R, top] float32)"""
    logits = dense_rows(logits)
    rows, vocab = logits.shape
    chunk = _chunk(vocab)
    chunks = ceil_div(vocab, chunk)

    def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=logits.device)

    real = torch.float32
    parts = (
        *(empty(rows, chunks, dtype=real), empty(rows, chunks, dtype=real), empty(rows, chunks)),
        *(empty(rows, chunks, top), empty(rows, chunks, top)),
    )
    results = (empty(rows, dtype=real), empty(rows), empty(rows, top), empty(rows, top, dtype=real))
    tokens, row = tokens.contiguous(), logits.stride(0)
    arguments = (*parts, logits, tokens, vocab, chunks, row, top)
    launch(device_logprobs.summarize_chunk, (rows, chunks), *arguments, BLOCK=chunk, num_warps=8)
    blocks = {"BLOCK": power_of_two(chunks), "BLOCK_TOP": power_of_two(max(chunks * top, 1)), "num_warps": 4}
    launch(device_logprobs.summarize_row, (rows,), *results, *parts, logits, tokens, chunks, row, top, **blocks)
    return results
