"""What the probe says of machines: this one, and others as NVML would report them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from zif.contract.info import Available, Unavailable
from zif_cuda import nvml, plugin
from zif_cuda.probe import judge, torch_build, visible

H200 = nvml.Gpu(0, "GPU-aaaa", "NVIDIA H200", (9, 0), 141 << 30)
T4 = nvml.Gpu(1, "GPU-bbbb", "Tesla T4", (7, 5), 16 << 30)
A100 = nvml.Gpu(2, "GPU-cccc", "NVIDIA A100", (8, 0), 80 << 30)
REPORT = nvml.Report("580.159.04", (13, 0), (H200, T4, A100))
TORCH = (13, 0)


def test_gpus_are_listed_with_what_they_are() -> None:
    result = judge(replace(REPORT, gpus=(H200,)), {}, TORCH)
    assert isinstance(result, Available)
    (device,) = result.devices
    assert (device.name, device.index, device.memory_bytes) == ("NVIDIA H200", 0, 141 << 30)
    assert "9.0" in device.detail
    assert "580.159.04" in device.detail


def test_gpus_that_are_too_old_are_left_out_and_named() -> None:
    result = judge(REPORT, {}, TORCH)
    assert isinstance(result, Available)
    assert [device.index for device in result.devices] == [0, 2]
    assert any("Tesla T4 (7.5)" in note for note in result.notes)


def test_only_old_gpus() -> None:
    result = judge(replace(REPORT, gpus=(T4,)), {}, TORCH)
    assert isinstance(result, Unavailable)
    assert "8.0 is needed" in result.reason
    assert "Tesla T4" in result.reason


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (None, [0, 1, 2]),
        ("2", [2]),
        ("2,0", [2, 0]),
        ("GPU-cc,0", [2, 0]),
        ("", []),
        ("-1", []),
        ("0,-1,2", [0]),
        (" 1 , 2 ", [1, 2]),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(listed: str | None, expected: list[int]) -> None:
    assert [gpu.index for gpu in visible(REPORT.gpus, listed)] == expected


@pytest.mark.parametrize("listed", ["7", "GPU-", "GPU-dd", "MIG-1234", "x"])
def test_visible_devices_that_name_nothing(listed: str) -> None:
    result = judge(REPORT, {"CUDA_VISIBLE_DEVICES": listed}, TORCH)
    assert isinstance(result, Unavailable)
    assert "CUDA_VISIBLE_DEVICES" in result.reason
    assert "CUDA_VISIBLE_DEVICES" in result.fix


def test_a_device_number_counts_visible_gpus() -> None:
    result = judge(REPORT, {"CUDA_VISIBLE_DEVICES": "2"}, TORCH)
    assert isinstance(result, Available)
    assert [(device.index, device.name) for device in result.devices] == [(0, "NVIDIA A100")]


def test_hidden_gpus() -> None:
    result = judge(REPORT, {"CUDA_VISIBLE_DEVICES": ""}, TORCH)
    assert isinstance(result, Unavailable)
    assert "hides every GPU" in result.reason


def test_driver_older_than_torch() -> None:
    result = judge(replace(REPORT, driver="535.1", cuda=(12, 2)), {}, TORCH)
    assert isinstance(result, Unavailable)
    assert "535.1" in result.reason
    assert "12.2" in result.reason
    assert "13.0" in result.reason


@pytest.mark.parametrize("missing", ["triton", "flashinfer"])
def test_a_library_that_is_missing_is_a_note(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec("json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else there)
    result = judge(REPORT, {}, TORCH)
    assert isinstance(result, Available)
    assert any(note.startswith(f"{missing} is not installed") and "pip install" in note for note in result.notes)


def test_driver_of_the_same_major_serves() -> None:
    assert isinstance(judge(replace(REPORT, cuda=(12, 2)), {}, (12, 8)), Available)


def test_driver_without_gpu() -> None:
    result = judge(replace(REPORT, gpus=()), {}, TORCH)
    assert isinstance(result, Unavailable)
    assert "no GPU" in result.reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("__version__ = '2.11.0'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", (13, 0)),
        ("__version__ = '2.11.0+cu128'\ncuda = '12.8'\n", (12, 8)),
    ],
)
def test_torch_is_read_from_its_files(text: str, expected: tuple[int, int]) -> None:
    assert torch_build(text) == expected


@pytest.mark.parametrize("text", ["__version__ = '2.11.0+cpu'\ncuda: Optional[str] = None\n", ""])
def test_torch_without_cuda(text: str) -> None:
    build = torch_build(text)
    assert isinstance(build, Unavailable)
    assert "pip install torch" in build.fix
    result = judge(REPORT, {}, build)
    assert result == build


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", "libnvidia-ml-that-is-not-there.so.1")
    result = plugin.zif_probe()
    assert isinstance(result, Unavailable)
    assert "no NVIDIA driver" in result.reason
    assert "driver" in result.fix


def test_a_driver_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> nvml.Report:
        raise nvml.NvmlError("nvmlInit_v2: Driver/library version mismatch")

    monkeypatch.setattr(nvml, "report", refuse)
    result = plugin.zif_probe()
    assert isinstance(result, Unavailable)
    assert "version mismatch" in result.reason


def test_nvml_is_asked_as_its_header_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library with NVML's functions, compiled from their prototypes in nvml.h."""
    source, library = tmp_path / "nvml.c", tmp_path / "libnvml.so"
    source.write_text(NVML_C)
    built = subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], capture_output=True, text=True)
    if built.returncode:
        pytest.skip("no C compiler")
    monkeypatch.setattr(nvml, "LIBRARY", str(library))
    report = nvml.report()
    assert (report.driver, report.cuda) == ("580.1", (13, 0))
    assert [(gpu.index, gpu.name, gpu.uuid, gpu.capability, gpu.memory_bytes) for gpu in report.gpus] == [
        (0, "Fake 0", "GPU-0", (9, 0), 1000),
        (1, "Fake 1", "GPU-1", (9, 1), 1001),
    ]


def test_neither_import_nor_probe_brings_a_framework() -> None:
    program = (
        "import sys; from zif_cuda.plugin import zif_probe, zif_backend_info; zif_backend_info(); zif_probe();"
        "print(sorted({'torch', 'triton', 'flashinfer', 'jax'} & sys.modules.keys()))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


NVML_C = """
#include <stdio.h>
typedef int nvmlReturn_t; typedef struct dev* nvmlDevice_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
nvmlReturn_t nvmlInit_v2(void) { return 0; }
nvmlReturn_t nvmlShutdown(void) { return 0; }
const char* nvmlErrorString(nvmlReturn_t r) { return "error"; }
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int* v) { *v = 13000; return 0; }
nvmlReturn_t nvmlSystemGetDriverVersion(char* s, unsigned n) { snprintf(s, n, "580.1"); return 0; }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned* n) { *n = 2; return 0; }
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned i, nvmlDevice_t* d) {
  *d = (nvmlDevice_t)(0x7f0000000000 + i); return 0;
}
static unsigned index_of(nvmlDevice_t d) { return (unsigned)((unsigned long)d - 0x7f0000000000); }
nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t d, int* a, int* b) { *a = 9; *b = index_of(d); return 0; }
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t* m) { m->total = 1000 + index_of(d); return 0; }
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char* s, unsigned n) { snprintf(s, n, "GPU-%u", index_of(d)); return 0; }
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char* s, unsigned n) {
  snprintf(s, n, "Fake %u", index_of(d)); return 0;
}
"""
