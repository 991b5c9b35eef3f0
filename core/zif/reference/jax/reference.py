"""Every op in plain JAX: the last provider on any JAX device."""

from __future__ import annotations

from zif.reference.jax.arrays import JaxArrays
from zif.reference.jax.attention import JaxAttention
from zif.reference.jax.latent import JaxLatent
from zif.reference.jax.layers import JaxLayers
from zif.reference.jax.moe import JaxMoE
from zif.reference.jax.sampling import JaxSampling


class JaxReference(JaxArrays, JaxLayers, JaxAttention, JaxLatent, JaxMoE, JaxSampling):
    """All of the JAX reference."""

    provider = "jax_reference"
