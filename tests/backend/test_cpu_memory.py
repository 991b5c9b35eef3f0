"""What a start takes of the machine's memory on the cpu backend: address space for the cache, and no pages yet."""

from __future__ import annotations

import logging

import psutil
import pytest

from zif import bundled
from zif.contract.arrays import ArraySpec
from zif.contract.backend import MemoryInfo
from zif.contract.errors import OutOfMemory
from zif.process.build import build_engine
from zif.settings import Settings
from zif_cpu.backend import CpuRuntime

GIB = 2**30


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_zeros_take_the_pages_that_are_written(dtype: str) -> None:
    spec = ArraySpec((4, 2**16, 4096), dtype)
    before = resident()
    array = CpuRuntime(1).zeros(spec)
    assert resident() - before < 16 * 2**20
    assert tuple(array.shape) == spec.shape
    array[3, -1] = 1
    assert not array[2, 17].float().any()
    assert array[3, -1].float().eq(1).all()
    assert resident() - before < 32 * 2**20


def test_memory_that_cannot_be_reserved_is_a_readable_error() -> None:
    with pytest.raises(OutOfMemory, match=r"cpu: .* GiB cannot be reserved"):
        CpuRuntime(1).zeros(ArraySpec((2**50,), "float32"))


def test_the_default_cache_leaves_the_machine_to_its_owner(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A laptop of 8 GiB, of which 5 are free: a quarter of what may be taken is."""
    monkeypatch.setattr(CpuRuntime, "memory", lambda self: MemoryInfo(8 * GIB, 5 * GIB))
    before = resident()
    sizes = {}
    for name, given in {
        "default": {},
        "fraction": {"mem_fraction_static": 0.88},
        "tokens": {"max_total_tokens": 4096},
    }.items():
        settings = Settings(model=str(bundled.path()), device="cpu", max_running_requests=4096, **given)
        caplog.clear()
        with caplog.at_level(logging.INFO, "zif"):
            engine = build_engine(settings, progress=False)
        sizes[name] = engine.stats()["cache_bytes"]
        engine.close()
        (said,) = [record.message for record in caplog.records if "KV cache" in record.message]
        assert f"{engine.stats()['cache_tokens']} tokens" in said
        assert "--max-total-tokens" in said
    budget = 5 * GIB - 0.12 * 8 * GIB
    assert sizes["default"] == pytest.approx(budget / 4, rel=0.01)
    assert sizes["fraction"] == pytest.approx(budget, rel=0.01)
    assert sizes["tokens"] < GIB / 8
    assert resident() - before < GIB / 2
