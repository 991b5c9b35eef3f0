"""The extension's entry point; imports no tensor library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zif.contract import CacheFormat, ExtensionInfo, KernelSet, hookimpl


@hookimpl
def zif_extension_info() -> ExtensionInfo:
    return ExtensionInfo(name="squeezed", summary="a cache of 4 or 8 bits a number", api=(1, 1), backends=("*",))


@hookimpl
def zif_cache_formats(backend: Any) -> Sequence[CacheFormat]:
    from zif_squeezed.format import Squeezed

    return [Squeezed()]


@hookimpl
def zif_kernels(backend: Any) -> Sequence[KernelSet]:
    from zif_squeezed.kernels import SqueezedKernels

    return [SqueezedKernels()]
