"""Latent attention (MLA) in torch, in the plain cache layout."""

from __future__ import annotations

from typing import Any

import torch

from zif.contract.attention import AttentionSpec
from zif.contract.kernel import KernelSet, kernel
from zif.contract.step import Step
from zif.contract.weights import PackedWeight
from zif.reference.torch.kernels import attend_pages, dense, stored, write_slots

Tensor = torch.Tensor


class TorchLatent(KernelSet):
    """A latent is a key that all heads share; the first ``v_head_dim`` of its entries are the value too."""

    level = 1

    @kernel("head_linear", when=dense)
    def head_linear(self, x: Tensor, w: PackedWeight) -> Tensor:
        return torch.einsum("thi,hoi->tho", x, w.arrays["w"])

    @kernel("latent_write")
    def latent_write(self, latent: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        latents = cache[spec.group]["k"]
        page, offset = write_slots(step, spec.group, latents.shape[2])
        latents[layer, page, offset, 0] = stored(latent, latents.dtype)
        return cache

    @kernel("absorbed_attention", capturable=False)
    def absorbed_attention(self, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Tensor:
        latents = cache[spec.group]["k"][layer]
        return attend_pages(q, latents, latents[..., : spec.v_head_dim], step, spec)
