"""The tpu backend: the JAX reference, Pallas kernels before it on a TPU, and few executables."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from zif.contract import CacheFormat, Capabilities, ConfigChange, Device, Group, KernelSet, NoUsableDevice
from zif.reference.host import user_cache
from zif.reference.jax import JaxBackend, JaxRuntime
from zif_tpu import buckets
from zif_tpu.executables import TpuExecutables
from zif_tpu.layout import JoinedFormat, TpuReference
from zif_tpu.runtime import TpuRuntime

logger = logging.getLogger(__name__)

PAGE_SIZES = (64, 16, 32, 128, 256)
"""On a TPU: a page is one transfer, so that large ones keep the memory busy."""

TABLE_ENTRIES = 1 << 17
"""Page table entries of a step: kernels read them from scalar memory, 1 MiB on every generation."""


HOST_DEVICES = "--xla_force_host_platform_device_count"


class TpuBackend(JaxBackend):
    """A JAX device, or a mesh of them. Without TPUs it is the reference on whatever platform JAX has."""

    name = "tpu"

    def __init__(self, runtime: JaxRuntime, pallas: Sequence[KernelSet] = ()) -> None:
        super().__init__(runtime)
        self.executables: TpuExecutables = TpuExecutables(runtime)
        self._pallas = tuple(pallas)
        self.capabilities = _capabilities(runtime.device.platform)

    def kernels(self) -> Sequence[KernelSet]:
        return (*self._pallas, TpuReference())

    def cache_formats(self) -> Sequence[CacheFormat]:
        """The reference's; before them, where there are Pallas kernels, joined ones."""
        joined = [JoinedFormat(dtype) for dtype in self.capabilities.dtypes] if self._pallas else []
        return (*joined, *super().cache_formats())

    def resolve_config(self, config: Mapping[str, Any]) -> Sequence[ConfigChange]:
        """Fewer requests at once where their page tables would not fit in scalar memory."""
        pages = -(-config["context_length"] // config["page_size"])
        rows, changes = config["max_running_requests"], []
        if self._pallas and rows * pages > TABLE_ENTRIES:
            rows = max(1, TABLE_ENTRIES // pages)
            reason = f"page tables of {pages} pages a request fit in a TPU's scalar memory {rows} times"
            changes.append(ConfigChange("max_running_requests", rows, reason))
        shapes = buckets.model_shapes(config["chunked_prefill_size"] + rows, rows, pages)
        logger.info(
            "at most %d executables of the model, compiled at first use, as tokens x sequences x pages x logits: %s",
            len(shapes), ", ".join("x".join(map(str, shape)) for shape in shapes),
        )  # fmt: skip
        return changes


def _capabilities(platform: str) -> Capabilities:
    """Sampling is a program of its own: fused, every kind of sampling would compile the whole model again."""
    if platform == "tpu":
        return on_tpu()
    own = Capabilities(dtypes=("bfloat16", "float32"), fuse_sampling=False)
    return replace(own, max_running_requests=32, chunked_prefill_size=512) if platform == "cpu" else own


def on_tpu(*, warm_up: bool = True) -> Capabilities:
    """On a TPU decode programs are compiled before the first request, which would wait for them."""
    return Capabilities(("bfloat16", "float32"), page_sizes=PAGE_SIZES, fuse_sampling=False, warm_up=warm_up)


def create(options: Mapping[str, str], device: Device, group: Group | None = None) -> TpuBackend:
    """The backend on the platform of ``tpu.platform``, over the devices of ``group`` if there is one.

    Raises NoUsableDevice where JAX does not find them.
    """
    asked = options.get("platform", "auto")
    platform = "tpu" if asked == "auto" else asked
    indices = [device.index] if group is None else [member.index for member in group.devices]
    if group is not None and platform == "cpu":
        _have_host_devices(group.size)
        indices = list(range(group.size))
    try:
        found = jax.devices(platform)
    except RuntimeError as error:
        line = str(error).splitlines()[0]
        raise NoUsableDevice(
            f"JAX finds no {platform} device: {line}. Is another process using it, or JAX_PLATFORMS set to another?"
        ) from error
    missing = sorted({index for index in indices if index >= len(found)})
    if missing:
        numbers = ", ".join(map(str, missing))
        raise NoUsableDevice(f"JAX has {len(found)} {platform} devices; there is no number {numbers}")
    _keep_compiled(options.get("compilation_cache", ""))
    if platform == "tpu":
        logger.warning("the tpu backend has never run on a TPU before: what it was held to is in docs/backends/tpu.md")
    runtime = TpuRuntime(*(found[index] for index in indices))
    return TpuBackend(runtime, _pallas(options.get("pallas", "auto"), platform))


def _have_host_devices(count: int) -> None:
    """Have JAX divide the host into as many devices, which it does only before it has any.

    Raises NoUsableDevice where it is too late, or where XLA_FLAGS ask for fewer.
    """
    config: Any = jax.config
    if HOST_DEVICES not in os.environ.get("XLA_FLAGS", ""):
        with suppress(RuntimeError):  # it has some already: as many, with luck
            config.update("jax_num_cpu_devices", count)
    have = len(jax.devices("cpu"))
    if have < count:
        raise NoUsableDevice(
            f"--tp-size {count}: JAX was started with {have} host devices; "
            f"set XLA_FLAGS={HOST_DEVICES}={count} before it starts"
        )


def _pallas(asked: str, platform: str) -> Sequence[KernelSet]:
    if asked == "off" or (asked == "auto" and platform != "tpu"):
        return ()
    from zif_tpu.kernels import PallasKernels

    return (PallasKernels(interpret=asked == "interpret"),)


def _keep_compiled(asked: str) -> None:
    """Have JAX keep compiled programs on disk, unless the user has told it where by JAX's own means."""
    config: Any = jax.config
    if asked == "off" or config.jax_compilation_cache_dir is not None:
        return
    directory = Path(asked) if asked else user_cache() / "zif" / "tpu"
    config.update("jax_compilation_cache_dir", str(directory))
    config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
