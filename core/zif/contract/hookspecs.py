"""Every hook of a plugin: the whole contract of discovery, a sentence a hook.

A plugin is a module (or object) named by an entry point: in the group ``zif.backends`` under
the name that ``--device`` takes, or in ``zif.extensions`` under any name for a package that adds
kernels or models to backends of others. It implements these with :data:`hookimpl`, each group
requiring its own, and may leave out arguments that it does not need. Neither importing it nor
its probe may import a tensor library. pluggy only finds and checks; nothing is called through it
once a backend is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

from zif.contract.info import BackendInfo, Device, DeviceOption, ExtensionInfo, ModelOverride, ProbeResult

if TYPE_CHECKING:
    from zif.contract.ahead import AheadBackend
    from zif.contract.backend import Backend
    from zif.contract.cache import CacheFormat
    from zif.contract.comm import Group
    from zif.contract.kernels import KernelSet

hookspec = pluggy.HookspecMarker("zif")
hookimpl = pluggy.HookimplMarker("zif")


@hookspec
def zif_backend_info() -> BackendInfo:  # type: ignore[empty-body]
    """Say what this backend is: name, API versions, framework, profiles (required of a backend)."""


@hookspec
def zif_extension_info() -> ExtensionInfo:  # type: ignore[empty-body]
    """Say what this extension is: name, API versions, the backends that it is for (required of an extension)."""


@hookspec
def zif_probe(options: Mapping[str, str]) -> ProbeResult:  # type: ignore[empty-body]
    """Say which devices are usable, or why none is and how to mend it, initialising none (required of a backend)."""


@hookspec
def zif_create_backend(  # type: ignore[empty-body]
    options: Mapping[str, str], device: Device, group: Group | None
) -> Backend:
    """Return the backend on ``device``, one the probe found, in a ``group`` if ranks share a model (required)."""


@hookspec
def zif_ahead_of_time(  # type: ignore[empty-body]
    options: Mapping[str, str], target: str, ranks: int | None
) -> AheadBackend:
    """Return a backend that compiles for ``ranks`` devices (None: all) of ``target``, which need not be here."""


@hookspec
def zif_environment(options: Mapping[str, str]) -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return environment variables to be set before any framework is imported; what the user has set wins."""


@hookspec
def zif_cli_options() -> Sequence[DeviceOption]:  # type: ignore[empty-body]
    """Declare the options of ``--device-opt`` that this backend's other hooks get as ``options``."""


@hookspec
def zif_kernels(backend: Backend) -> Sequence[KernelSet]:  # type: ignore[empty-body]
    """Return kernel sets that this package adds to ``backend``, its own or somebody else's; none to a stranger."""


@hookspec
def zif_cache_formats(backend: Backend) -> Sequence[CacheFormat]:  # type: ignore[empty-body]
    """Return formats that ``backend`` may store a cache in besides its own; kernels of zif_kernels read them."""


@hookspec
def zif_models() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return further model architectures (their name in ``config.json``), each with the module that defines it."""


@hookspec
def zif_model_override() -> Sequence[ModelOverride]:  # type: ignore[empty-body]
    """Return the architectures for which this backend runs its own model instead of the shared one, and why."""
