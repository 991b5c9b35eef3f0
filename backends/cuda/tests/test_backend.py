"""What the backend object says of a GPU: which caches it stores, and why not others."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fakes import FakeDevice
from zif.contract.attention import AttentionSpec
from zif.contract.binding import choose
from zif.contract.cache import CacheGroup
from zif.contract.kernels import Kernel
from zif.contract.ops.attention import attention_request
from zif_cuda.backend import CudaBackend
from zif_cuda.device import Facts


class Device(FakeDevice):
    def __init__(self, capability: tuple[int, int]) -> None:
        super().__init__()
        self.capability = capability

    def facts(self) -> Facts:
        return Facts(self.capability, 132, 232448)


def backend_of(capability: tuple[int, int]) -> Any:
    return CudaBackend(Device(capability), flashinfer="it is not there", tune="off")  # type: ignore[arg-type]


def kernels_of(backend: Any) -> list[Kernel]:
    return [kernel for kernels in backend.kernels() for kernel in kernels.kernels()]


def test_eight_bits_are_refused_by_gpus_that_cannot_convert_them() -> None:
    group = CacheGroup("g", "paged", 2, 8, 128, 128)
    old, new = ({stored.name: stored for stored in backend_of(at).cache_formats()} for at in ((8, 6), (8, 9)))
    assert re.search(r"capability 8\.9 or later .* this one has 8\.6", old["fp8_e4m3"].refusal(group, 16) or "")
    assert old["bfloat16"].refusal(group, 16) is None
    assert new["fp8_e4m3"].refusal(group, 16) is None


@pytest.mark.parametrize("op", ["paged_attention", "rope_and_cache", "kv_write"])
def test_a_cache_of_eight_bits_is_served_by_triton_and_flashinfer_says_why_not(op: str) -> None:
    pytest.importorskip("triton")
    spec = AttentionSpec("g", 32, 8, 128, 128, 128**-0.5)
    choice = choose(attention_request(op, "bfloat16", spec, 16, "fp8_e4m3"), kernels_of(backend_of((9, 0))))
    assert choice.kernel.provider == "triton"
    if op == "paged_attention":
        assert [entry.kernel for entry in choice.rejected] == ["flashinfer.paged_attention"]
