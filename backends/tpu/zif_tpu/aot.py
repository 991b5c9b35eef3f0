"""Compiling for TPUs that are not here: libtpu's compiler, a topology by name, shapes for arrays."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from zif.contract.ahead import AheadReport
from zif.contract.arrays import ArraySpec
from zif.contract.backend import HostTensors, MemoryInfo
from zif.contract.errors import InvalidSettings, NoUsableDevice
from zif.contract.weights import ExpertsSpec, PackedWeight
from zif.reference.jax import JaxExecutable, JaxPacker, JaxRuntime
from zif.reference.jax.runtime import jax_dtype
from zif_tpu.backend import TpuBackend, on_tpu
from zif_tpu.chips import BY_NAME, Chip
from zif_tpu.cost import cost_of
from zif_tpu.executables import TpuExecutables
from zif_tpu.kernels import PallasKernels
from zif_tpu.runtime import TpuRuntime

Shape = jax.ShapeDtypeStruct

QUIET = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
"""What keeps libtpu from asking a metadata server which machine this is; the topology is given apart."""


def create(target: str) -> TpuAhead:
    """The backend for ``target``, a topology such as ``v6e:2x4``.

    Raises InvalidSettings for one that libtpu does not know, NoUsableDevice without libtpu.
    """
    generation, colon, extents = target.partition(":")
    chip = BY_NAME.get(generation)
    if chip is None or not colon or not re.fullmatch(r"\d+(x\d+)+", extents):
        known = ", ".join(sorted(BY_NAME))
        raise InvalidSettings(f"--target {target}: write it as generation:topology, as in v6e:2x4; known are {known}")
    if importlib.util.find_spec("libtpu") is None:
        raise NoUsableDevice(f'--target {target}: its compiler, libtpu, is not installed: pip install "jax[tpu]"')
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=target)
    except Exception as error:  # of whichever of libtpu's layers refuses it
        line = " ".join(str(error).split())[:300]
        raise InvalidSettings(f"--target {target}: libtpu does not compile for it: {line}") from error
    return TpuAhead(target, chip, topology.devices)


class ShapeRuntime(TpuRuntime):
    """Arrays are shapes on devices of the topology; what was made is counted against one's memory."""

    def __init__(self, devices: Sequence[Any], memory_bytes: int) -> None:
        super().__init__(*devices)
        self._total = memory_bytes
        self._used = 0

    def shape(self, extents: tuple[int, ...], dtype: str) -> Shape:
        """An array that takes no memory here, and its share of the target's."""
        self._used += ArraySpec(extents, dtype).nbytes
        return Shape(self.extents(extents), jax_dtype(dtype), sharding=self.resident)  # type: ignore[no-untyped-call]

    def joined(self, hosts: Sequence[np.ndarray[Any, Any]]) -> Any:
        return self.shape(hosts[0].shape, hosts[0].dtype.name)

    def zeros(self, spec: ArraySpec) -> Any:
        return self.shape(spec.shape, spec.dtype)

    def memory(self) -> MemoryInfo:
        return MemoryInfo(self._total, max(0, self._total - self._used))


class ShapePacker(JaxPacker):
    """The packing of the reference, of shapes alone."""

    runtime: ShapeRuntime

    def experts(
        self, spec: ExpertsSpec, gates: HostTensors, ups: HostTensors, downs: HostTensors, dtype: str
    ) -> PackedWeight:
        gate_up = self.runtime.shape((spec.experts, 2 * spec.size, spec.hidden), dtype)
        down = self.runtime.shape((spec.experts, spec.hidden, spec.size), dtype)
        return PackedWeight({"gate_up": gate_up, "down": down}, "dense", spec.shape)

    def rows(self, parts: HostTensors, dtype: str) -> Any:
        return self.runtime.shape((sum(part.shape[0] for part in parts), *parts[0].shape[1:]), dtype)

    def stacked_leaf(self, leaves: Sequence[Any]) -> Any:
        first = leaves[0]
        devices = len(self.runtime.devices)
        shape = self.runtime.extents((len(leaves), first.shape[0] // devices, *first.shape[1:]))
        form = self.runtime.stack_format(len(shape), first.dtype)
        return Shape(shape, first.dtype, sharding=form)  # type: ignore[no-untyped-call]


class TpuAheadExecutable(JaxExecutable):
    """Compiled for a chip; ``stage`` and ``run`` have no device to go to."""

    report: AheadReport

    def save(self, path: Path) -> None:
        """As ``jax.experimental.serialize_executable`` has it: (payload, input tree, output tree), pickled."""
        from jax.experimental import serialize_executable

        path.with_suffix(".jax").write_bytes(pickle.dumps(serialize_executable.serialize(self.compiled)))


class AheadExecutables(TpuExecutables):
    """Compiles with libtpu, on this machine's cores, and reports instead of telling."""

    kind = TpuAheadExecutable

    def __init__(self, runtime: JaxRuntime, chip: Chip) -> None:
        super().__init__(runtime)
        self._chip = chip

    def compiled(self, executable: JaxExecutable, seconds: float, of_model: bool) -> None:
        assert isinstance(executable, TpuAheadExecutable)
        cost = cost_of(executable.jaxpr)
        least = max(cost.flops / self._chip.flops, cost.bytes / self._chip.bandwidth)
        executable.report = AheadReport(cost.flops, cost.bytes, executable.memory_bytes, seconds, least)


class TpuAhead(TpuBackend):
    """The tpu backend on devices of a topology, without the devices."""

    def __init__(self, target: str, chip: Chip, devices: Sequence[Any], ranks: int = 1) -> None:
        runtime = ShapeRuntime(devices[:ranks], chip.memory_bytes)
        super().__init__(runtime, (PallasKernels(),))
        self.capabilities = on_tpu(warm_up=False)
        self.packer = ShapePacker(runtime)
        self.executables = AheadExecutables(runtime, chip)
        rates = f"{chip.flops / 1e12:.0f} TFLOP/s, {chip.bandwidth / 1e9:.0f} GB/s"
        self.target = f"{target} ({len(devices)} devices; of one, {rates})"
