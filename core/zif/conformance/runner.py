"""Running the suite: over an installed plugin, or over a backend object."""

from __future__ import annotations

import os
from collections.abc import Sequence

from zif.conformance.profiles import known_profiles
from zif.conformance.results import Recorder, Report, Waiver, apply_waivers
from zif.conformance.scope import EVERYTHING, Scope
from zif.contract import version
from zif.contract.backend import Backend
from zif.contract.cache import CacheFormat
from zif.contract.kernels import KernelSet


def run(
    device: str = "auto",
    device_opts: Sequence[str] = (),
    *,
    only: Sequence[str] | None = None,
    waivers: Sequence[Waiver] = (),
    profiles: Sequence[str] = (),
    scope: Scope = EVERYTHING,
) -> Report:
    """Check the installed plugin that ``--device`` names.

    ``only``: names or globs of sections or checks (``ops``, ``ops/rms_norm``, ``ops/*/bfloat16/*``). ``profiles``:
    those that are asked for, instead of those that the plugin claims.
    Raises what :func:`zif.plugins.select` raises if there is no such plugin or it has no device.
    """
    from zif.conformance.communicator import check_communicator
    from zif.conformance.hygiene import check_plugin
    from zif.plugins import extension_formats, extension_kernels, select

    recorder = Recorder(only or ())
    environment = dict(os.environ)
    selection = select(device, device_opts)
    name = f"{selection.plugin.name}:{selection.device.index}"
    if recorder.begins("hygiene"):
        check_plugin(selection, recorder, environment)
    if recorder.begins("communicator"):
        check_communicator(selection, recorder)
    if any(recorder.wants(section) for section in ("runtime", "executables", "caches", "ops", "engine")):
        backend = selection.create_backend()
        name, level = selection.plugin.name, selection.plugin.api_version
        check_backend(
            backend,
            known_profiles(profiles, level) or selection.plugin.info.profiles,
            recorder,
            extension_kernels(backend, name),
            extension_formats(backend, name),
            level,
            scope,
        )
    results = list(apply_waivers(recorder.results, waivers))
    return Report(name, str(selection.plugin.found), results)


def check_backend(
    backend: Backend,
    profiles: tuple[str, ...],
    recorder: Recorder,
    extra_kernels: Sequence[KernelSet] = (),
    extra_formats: Sequence[CacheFormat] = (),
    level: int | None = None,
    scope: Scope = EVERYTHING,
) -> None:
    """Run the sections that need a backend alone: ``runtime``, ``executables``, ``caches``, ``ops`` and ``engine``.

    ``level`` is the version of the plugin API whose profiles are asked for: what plugin and core agreed on, or core's.
    ``scope``: how much of each is run.
    """
    from zif.conformance.caches import check_formats
    from zif.conformance.machinery import check_machinery
    from zif.conformance.opcheck import Offer, check_ops

    providers = [*extra_kernels, *backend.kernels()]
    if profiles:
        check_machinery(backend, providers, recorder)
    else:
        for section in ("runtime", "executables"):
            recorder.add(section, "all", "", "skip", "the plugin claims no profile")
    formats = [*extra_formats, *backend.cache_formats()]
    if recorder.begins("caches"):
        check_formats(formats, backend.capabilities, recorder)
    if recorder.begins("ops"):
        level = version.API_VERSION if level is None else level
        check_ops(Offer(backend, providers, formats), profiles, recorder, level, scope)
    if recorder.begins("engine"):
        from zif.conformance.metamorphic import check_engine

        check_engine(backend, profiles, recorder, formats, providers, scope)
