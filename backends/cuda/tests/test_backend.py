"""What the backend object says of a GPU: which caches it stores, and why not others."""

from __future__ import annotations

from typing import Any

import pytest

from fakes import FakeDevice
from zif.contract.attention import AttentionSpec
from zif.contract.bind import choose
from zif.contract.errors import InvalidSettings
from zif.contract.kernel import Kernel
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
    old, new = backend_of((8, 6)), backend_of((8, 9))
    config = {"kv_cache_dtype": "float8_e4m3fn"}
    with pytest.raises(InvalidSettings, match=r"capability 8\.9 or later .* this one has 8\.6"):
        old.resolve_config(config)
    assert old.resolve_config({"kv_cache_dtype": "bfloat16"}) == ()
    assert old.capabilities.cache_dtypes == ()
    assert new.resolve_config(config) == ()
    assert "float8_e4m3fn" in new.capabilities.cache_dtypes


@pytest.mark.parametrize("op", ["paged_attention", "rope_and_cache", "kv_write"])
def test_a_cache_of_eight_bits_is_served_by_triton_and_flashinfer_says_why_not(op: str) -> None:
    pytest.importorskip("triton")
    spec = AttentionSpec("g", 32, 8, 128, 128, 128**-0.5)
    choice = choose(attention_request(op, "bfloat16", spec, 16, "float8_e4m3fn"), kernels_of(backend_of((9, 0))))
    assert choice.kernel.provider == "triton"
    if op == "paged_attention":
        assert [entry.kernel for entry in choice.rejected] == ["flashinfer.paged_attention"]
