"""The sampler's ops in torch."""

from __future__ import annotations

from typing import Any

import torch

from zif.contract.kernels import KernelSet, kernel
from zif.contract.ops.threefry import BLOCK, FIRST_BLOCK, HALF, PARITY, ROTATIONS

Tensor = torch.Tensor


class TorchSampling(KernelSet):
    """Kernels over float32 logits [R, vocab]."""

    level = 1

    @kernel("penalize")
    def penalize(
        self,
        logits: Tensor,
        output_counts: Tensor,
        in_prompt: Tensor,
        repetition: Tensor,
        presence: Tensor,
        frequency: Tensor,
    ) -> Tensor:
        seen = output_counts > 0
        factor = torch.where(seen | in_prompt, repetition[:, None], 1.0)
        logits = torch.where(logits > 0, logits / factor, logits * factor)
        return logits - frequency[:, None] * output_counts - presence[:, None] * seen

    @kernel("argmax")
    def argmax(self, logits: Tensor) -> Tensor:
        highest, ids = logits.max(-1)  # NaN, if there is one
        return ids.int().masked_fill(~highest.isfinite(), -1)

    @kernel("sample")
    def sample(self, logits: Tensor, temperature: Tensor, seed: Tensor, position: Tensor) -> Tensor:
        greedy = temperature == 0
        scaled = logits / torch.where(greedy, 1.0, temperature)[:, None]
        behind = -logits.shape[-1] % BLOCK
        z = torch.nn.functional.pad(scaled, (0, behind), value=float("-inf")).reshape(len(logits), -1, BLOCK)
        peaks = z.amax(-1)
        scores = z.logsumexp(-1) + _gumbel(block_uniform(seed, position, z.shape[1]))
        block = torch.where(greedy[:, None], peaks, scores).argmax(-1)
        noise = torch.where(greedy[:, None], 0.0, _gumbel(uniform(seed, position, block)))
        ids = z[torch.arange(len(z), device=z.device), block] + noise
        return (block * BLOCK + ids.argmax(-1)).int().masked_fill(~peaks.amax(-1).isfinite(), -1)

    @kernel("mask_logits")
    def mask_logits(self, logits: Tensor, mask: Tensor) -> Tensor:
        tokens = torch.arange(logits.shape[1], device=logits.device)
        allowed = (mask[:, tokens >> 5] >> (tokens & 31).int()) & 1
        return logits.masked_fill(allowed == 0, float("-inf"))

    @kernel("filter_logits")
    def filter_logits(self, logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
        vocab = logits.shape[-1]
        scaled = logits / torch.where(temperature > 0, temperature, 1.0)[:, None]
        ordered, order = torch.sort(scaled, dim=-1, descending=True, stable=True)
        k = torch.where((top_k > 0) & (top_k < vocab), top_k, vocab)
        kth = ordered.gather(-1, (k.long() - 1)[:, None])
        weights = torch.where(ordered >= kth, torch.exp(ordered - ordered[:, :1]), 0.0)
        mass = weights / weights.sum(-1, keepdim=True)
        before = mass.cumsum(-1) - mass
        keep = (ordered >= kth) & ((before < top_p[:, None]) | (top_p[:, None] >= 1))
        keep &= (weights >= min_p[:, None]) | (min_p[:, None] <= 0)
        keep[:, 0] = True
        keep &= ordered[:, :1].isfinite()  # NaN comes first, as +inf does
        kept = torch.zeros_like(keep).scatter(-1, order, keep)
        return logits.masked_fill(~kept, float("-inf"))

    @kernel("logprobs")
    def logprobs(self, logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        normal = logits.log_softmax(-1)
        chosen = normal.gather(-1, tokens.long()[:, None])
        rank = 1 + (normal > chosen).sum(-1)
        best, ids = normal.topk(top, dim=-1)
        return chosen[:, 0], rank.int(), ids.int(), best


def _gumbel(u: Tensor) -> Tensor:
    return -torch.log(-torch.log(u))


def uniform(seed: Tensor, position: Tensor, block: Tensor) -> Tensor:
    """[R, 256] float32 in (0, 1): :func:`zif.contract.ops.threefry.uniform` of the ids of ``block`` [R]."""
    counters = BLOCK * block.int()[:, None] + torch.arange(HALF, dtype=torch.int32, device=seed.device)
    return _between(torch.cat(_words(seed, position, counters), -1))


def block_uniform(seed: Tensor, position: Tensor, blocks: int) -> Tensor:
    """[R, blocks] float32 in (0, 1): the bits of :func:`zif.contract.ops.threefry.block_uniform`."""
    counters = torch.arange(blocks, dtype=torch.int32, device=seed.device)[None, :] - FIRST_BLOCK
    return _between(_words(seed, position, counters)[0])


def _words(seed: Tensor, position: Tensor, counters: Tensor) -> tuple[Tensor, Tensor]:
    """Threefry's words [R, n] int32; counters [R or 1, n] int32.

    int32 arithmetic wraps as uint32's does; only the right shift has to be made a logical one.
    """
    key0, key1 = seed[:, :1], seed[:, 1:]
    keys = (key0, key1, key0 ^ key1 ^ PARITY)
    x0: Any = position[:, None] + keys[0]
    x1: Any = counters + keys[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << rotation) | ((x1 >> (32 - rotation)) & ((1 << rotation) - 1))
            x1 = x1 ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + (group + 1)
    return x0, x1


def _between(bits: Tensor) -> Tensor:
    return (((bits >> 9) & 0x7FFFFF).float() + 0.5) * 2.0**-23
