"""A plugin as it was written for level 1 of the contract: its package's one module.

It stays as it is once level 1 is released. A later core that cannot load and use it has broken its promise to every
plugin that is older than itself (docs/contract.md, how it grows).
"""

from __future__ import annotations

from typing import Any

import torch

from zif.contract import (
    AttentionSpec,
    Available,
    BackendInfo,
    Capabilities,
    Device,
    KernelSet,
    OpRequest,
    hookimpl,
    kernel,
)
from zif.reference.torch import TorchBackend, TorchReference, TorchRuntime


class FrozenKernels(KernelSet):
    provider = "frozen"
    level = 1

    def _heads(self, request: OpRequest) -> str | None:
        return None if request["head_dim"] <= 256 else f"takes heads of up to 256, not {request['head_dim']}"

    @kernel("softcap")
    def softcap(self, x: Any, cap: float) -> Any:
        return torch.tanh(x / cap) * cap

    @kernel("gated_activation")
    def gated_activation(self, x: Any, kind: str) -> Any:
        gate, up = x.chunk(2, dim=-1)
        act = torch.nn.functional.silu(gate) if kind == "silu" else torch.nn.functional.gelu(gate, approximate="tanh")
        return act * up

    @kernel("paged_attention", when=_heads, makes=True)
    def paged_attention(self, request: OpRequest, ops: Any) -> Any:
        reference = TorchReference()

        def run(q: Any, cache: Any, layer: Any, step: Any, spec: AttentionSpec) -> Any:
            return reference.paged_attention(q, cache, layer, step, spec)

        return run


class FrozenBackend(TorchBackend):
    name = "frozen"
    capabilities = Capabilities(dtypes=("float32",), asynchronous=False)

    def kernels(self) -> Any:
        return (FrozenKernels(), TorchReference())


@hookimpl
def zif_backend_info() -> BackendInfo:
    return BackendInfo(
        name="frozen", summary="of level 1", api=(1, 1), framework="torch", verified_on=None, preference=-1
    )


@hookimpl
def zif_probe() -> Available:
    return Available((Device(name="F1"),))


@hookimpl
def zif_create_backend(options: Any, device: Any) -> FrozenBackend:
    return FrozenBackend(TorchRuntime())
