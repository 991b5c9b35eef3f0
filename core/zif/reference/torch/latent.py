"""Latent attention (MLA) in torch, in the formats of :mod:`zif.contract.formats`."""

from __future__ import annotations

from typing import Any

import torch

from zif.contract.attention import AttentionSpec
from zif.contract.formats import unless_known
from zif.contract.kernels import KernelSet, kernel
from zif.contract.step import Step
from zif.contract.weights import PackedWeight
from zif.reference.torch.attention import attend_pages, kept, store, write_slots
from zif.reference.torch.kernels import dense

Tensor = torch.Tensor


class TorchLatent(KernelSet):
    """A latent is a key that all heads share; the first ``v_head_dim`` of its entries are the value too."""

    level = 1

    @kernel("head_linear", when=dense)
    def head_linear(self, x: Tensor, w: PackedWeight) -> Tensor:
        return torch.einsum("thi,hoi->tho", x, w.arrays["w"])

    @kernel("latent_write", when=unless_known)
    def latent_write(self, latent: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        group = cache[spec.group]
        store(group, "k", latent[:, None], layer, write_slots(step, spec.group, group["k"].shape[2]))
        return cache

    @kernel("absorbed_attention", capturable=False, when=unless_known)
    def absorbed_attention(self, q: Tensor, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Tensor:
        group = cache[spec.group]
        latents = kept(group, "k", layer)

        def values(pages: Tensor) -> Tensor:
            return latents(pages)[..., : spec.v_head_dim]

        return attend_pages(q, latents, values, group["k"].shape[2], step, spec)
