"""The null backend's hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zif.contract.hookspecs import hookimpl
from zif.contract.info import Available, BackendInfo, Device, DeviceOption, ProbeResult

if TYPE_CHECKING:
    from zif.contract.backend import Backend


@hookimpl
def zif_backend_info() -> BackendInfo:
    """A device for tests; ``auto`` never takes it, its preference being negative."""
    return BackendInfo(
        name="null",
        summary="a device for tests: computes nothing, every token is made up",
        api=(1, 1),
        framework="numpy",
        verified_on="any machine, as it has no hardware",
        profiles=(),
        preference=-1000,
    )


@hookimpl
def zif_cli_options() -> Sequence[DeviceOption]:
    """Options of the simulated device."""
    return [
        DeviceOption(name="step_ms", summary="milliseconds that a run with outputs takes on the device", default="0"),
        DeviceOption(name="token", summary="the token id of every output, or 'hash' of the staged inputs", default="7"),
        DeviceOption(name="memory_mb", summary="MiB of memory that the device pretends to have", default="1024"),
        DeviceOption(name="ring", summary="staged inputs that an executable holds at once", default="2"),
        DeviceOption(
            name="fail_at", summary="number of the run, from 1, at which the device breaks; 0: never", default="0"
        ),
        DeviceOption(
            name="fail_in",
            summary="who is told first: who launches the run, or who waits for it",
            default="wait",
            choices=("wait", "run"),
        ),
        DeviceOption(name="hang_at", summary="number of the run, from 1, that never ends; 0: none", default="0"),
    ]


@hookimpl
def zif_probe(options: Mapping[str, str]) -> ProbeResult:
    """Available everywhere."""
    return Available(
        (Device(name="null", memory_bytes=int(options["memory_mb"]) << 20, detail="TEST DEVICE: computes nothing"),)
    )


@hookimpl
def zif_create_backend(options: Mapping[str, str]) -> Backend:
    """The backend."""
    from zif.null.backend import NullBackend, NullOptions

    return NullBackend(NullOptions.parse(options))
