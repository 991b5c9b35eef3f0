"""Compiling for TPUs that are not here: libtpu's compiler, a topology by name, shapes for arrays."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from zif.contract import (
    AheadReport,
    ArraySpec,
    ExpertsSpec,
    ExpertTensors,
    HostArray,
    InvalidSettings,
    MemoryInfo,
    NoUsableDevice,
    PackedWeight,
    Packer,
    Tree,
)
from zif.reference.jax import JaxExecutable, JaxPacker, JaxRuntime
from zif.reference.jax.mesh import MeshCommunicator
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


def create(target: str, ranks: int | None = 1) -> TpuAhead:
    """The backend for ``ranks`` devices of ``target``, a topology such as ``v6e:2x4``; None: for all of them.

    Raises InvalidSettings for a topology that libtpu does not know or that has fewer devices, NoUsableDevice
    without libtpu.
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
    ranks = len(topology.devices) if ranks is None else ranks
    if ranks > len(topology.devices):
        raise InvalidSettings(f"--tp-size {ranks}: {target} has {len(topology.devices)} devices")
    return TpuAhead(target, chip, topology.devices, ranks)


class ShapeRuntime(TpuRuntime):
    """Arrays are shapes on devices of the topology; what was made is counted against one's memory."""

    def __init__(self, devices: Sequence[Any], memory_bytes: int) -> None:
        super().__init__(*devices)
        self.used = 0
        self._total = memory_bytes

    def each(self) -> Sequence[ShapeRuntime]:
        return [ShapeRuntime([device], self._total) for device in self.devices]

    def shape(self, extents: tuple[int, ...], dtype: str) -> Shape:
        """An array that takes no memory here, and its share of the target's."""
        self.used += ArraySpec(extents, dtype).nbytes
        return Shape(self.extents(extents), jax_dtype(dtype), sharding=self.resident)  # type: ignore[no-untyped-call]

    def put(self, host: np.ndarray[Any, Any]) -> Any:
        return self.shape(host.shape, host.dtype.name)

    def zeros(self, spec: ArraySpec) -> Any:
        return self.shape(spec.shape, spec.dtype)

    def joined(self, parts: Sequence[Any]) -> Any:
        return Shape(self.extents(parts[0].shape), parts[0].dtype, sharding=self.resident)  # type: ignore[no-untyped-call]

    def memory(self) -> MemoryInfo:
        return MemoryInfo(self._total, max(0, self._total - self.used))


class ShapeCommunicator(MeshCommunicator):
    """One rank's weights stand for every rank's: their shapes are the same."""

    def __init__(self, runtime: ShapeRuntime) -> None:
        super().__init__(runtime)
        self._shapes = runtime
        self._first = runtime.each()[0]

    def packers(self, packer: Packer) -> Mapping[int, Packer]:
        stand_in: Any = ShapePacker(self._first)
        return {0: stand_in}

    def join(self, trees: Sequence[Tree]) -> Tree:
        self._shapes.used += self._first.used
        return super().join(trees)


class ShapePacker(JaxPacker):
    """The packing of the reference, of shapes alone."""

    runtime: ShapeRuntime

    def experts(self, spec: ExpertsSpec, tensors: ExpertTensors, dtype: str) -> PackedWeight:
        experts, size, hidden = spec.shape
        shapes: dict[str, tuple[int, ...]] = {"gate_up": (experts, 2 * size, hidden), "down": (experts, hidden, size)}
        if spec.bias:
            shapes |= {"gate_up_bias": (experts, 2 * size), "down_bias": (experts, hidden)}
        return PackedWeight(
            {name: self.runtime.shape(shape, dtype) for name, shape in shapes.items()}, "dense", spec.shape
        )

    def rows(self, parts: Iterable[HostArray], shape: tuple[int, ...], dtype: str) -> Any:
        return self.runtime.shape(shape, dtype)

    def stacked_leaf(self, leaves: Sequence[Any]) -> Any:
        shape, dtype = (len(leaves), *leaves[0].shape), leaves[0].dtype
        return Shape(shape, dtype, sharding=self.runtime.resident)  # type: ignore[no-untyped-call]


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
        cost, chip = cost_of(executable.jaxpr), self._chip
        least = max(cost.flops / chip.flops, cost.bytes / chip.bandwidth, cost.sent / chip.link)
        executable.report = AheadReport(cost.flops, cost.bytes, executable.memory_bytes, seconds, least, cost.sent)


class TpuAhead(TpuBackend):
    """The tpu backend on devices of a topology, without the devices."""

    def __init__(self, target: str, chip: Chip, devices: Sequence[Any], ranks: int = 1) -> None:
        runtime = ShapeRuntime(devices[:ranks], chip.memory_bytes)
        super().__init__(runtime, (PallasKernels(),))
        self.capabilities = on_tpu(warm_up=False)
        self.packer = ShapePacker(runtime)
        self.executables = AheadExecutables(runtime, chip)
        if ranks > 1:
            self.communicator = ShapeCommunicator(runtime)
        rates = (
            f"{chip.flops / 1e12:.0f} TFLOP/s, memory {chip.bandwidth / 1e9:.0f} GB/s, links {chip.link / 1e9:.0f} GB/s"
        )
        self.target = f"{target} ({ranks} of {len(devices)} devices; of one, {rates})"
