"""Every portable kernel compiles for every device kind, uses its matrix unit where it multiplies, and fits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernels.compiled.catalogue import CALLS, TARGETS, Compiled, compiled

MULTIPLIES = ("decode", "ragged", "skinny")
SPILLS = {"decode": 96}
"""Bytes or registers that a kernel may spill, where it is more than 64: what is kept over its loop, not in it."""


COMMON = ("layers", "linears", "attention", "sampling", "table")
FIRST = ("sm_90", "gfx942")
"""Device kinds on which all of it is compiled in every run; on the others what every model has."""
PAIRS = [
    pytest.param(name, calls, marks=[] if name in FIRST or calls in COMMON else [pytest.mark.slow])
    for name in TARGETS
    for calls in CALLS
    if calls != "attention, eight bits" or name == "sm_90"
]


@pytest.mark.parametrize(("name", "calls"), PAIRS)
def test_compiles(name: str, calls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    target = TARGETS[name]
    kernels = list(compiled(target, calls))
    assert kernels
    for kernel in kernels:
        assert kernel.shared <= target.machine.shared_bytes, kernel.name
        assert kernel.spilled <= SPILLS.get(kernel.name, 64), f"{kernel.name} spills {kernel.spilled}"
        assert target.overlap == ("griddepcontrol.wait" in kernel.assembly), kernel.name
        # sixteen rows of a decode step are too few for a whole group of warps: mma.sync serves them
        unit = ("mma.sync", target.matrix) if target.gpu.backend == "cuda" else (target.matrix,)
        assert any(name in kernel.assembly for name in unit) == (kernel.name in MULTIPLIES), kernel.name
    if target.gpu.backend == "cuda" and "attention" in calls:
        assert any(target.matrix in kernel.assembly for kernel in kernels if kernel.name == "ragged")


def copied(kernel: Compiled) -> int:
    """Bytes that one thread copies to shared memory in code for one tile after the other, page numbers aside."""
    sizes = re.findall(r"cp\.async\.c[ag]\.shared\.global[^;]*?, 0x([0-9a-f]+)", kernel.assembly)
    return sum(size for size in (int(one, 16) for one in sizes) if size > 4)


def test_a_cache_of_eight_bits_is_read_in_half_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared in tiles of the same extent."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = {calls: list(compiled(TARGETS["sm_90"], calls)) for calls in ("attention", "attention, eight bits")}
    for name in ("decode", "ragged"):
        wide, narrow = (next(one for one in found[calls] if one.name == name) for calls in found)
        assert copied(wide) > 0
        assert copied(narrow) * 2 == copied(wide), name
