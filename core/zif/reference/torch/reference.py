"""Every op in plain torch: the last provider on any torch device, and the meaning of the faster ones."""

from __future__ import annotations

from zif.reference.torch.attention import TorchAttention
from zif.reference.torch.kernels import TorchArrays, TorchLayers
from zif.reference.torch.latent import TorchLatent
from zif.reference.torch.moe import TorchMoE
from zif.reference.torch.sampling import TorchSampling


class TorchReference(TorchArrays, TorchLayers, TorchAttention, TorchLatent, TorchMoE, TorchSampling):
    """All of the torch reference."""

    provider = "torch_reference"
