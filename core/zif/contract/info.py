"""What a plugin says about itself and about the machine: frozen data, no framework needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

BACKENDS = "zif.backends"
EXTENSIONS = "zif.extensions"
"""The groups of entry points that plugins are found by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """What a backend plugin is.

    ``name`` is what ``--device`` takes, and must be the entry point's name. ``api`` is the range
    (oldest, newest) of plugin API versions that the plugin speaks. ``framework`` is the array
    library of its buffers ("torch", "jax", "numpy"): the reference kernels of that name serve
    the ops it lacks. ``profiles`` are the op profiles it claims. ``preference`` decides
    ``--device auto``: the largest among the available wins; cpu has 0, and one that is negative
    is never taken.

    ``verified_on`` names the hardware that this backend's results were obtained on. None says
    that it has never run on its hardware, and ``zif devices`` says so too.

    ``ranks`` says how it shares a model's layers among devices (:mod:`zif.contract.comm`): by a process
    each ("processes"), or by one process over a "mesh". None: it cannot.
    """

    name: str
    summary: str
    api: tuple[int, int]
    framework: str
    verified_on: str | None
    profiles: tuple[str, ...] = ("llm",)
    preference: int = 0
    ranks: Literal["processes", "mesh"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionInfo:
    """What a package is that adds kernels or models to backends of others.

    ``name`` must be the entry point's name. ``api`` is the range (oldest, newest) of plugin API
    versions that the extension speaks. ``backends`` names those that it adds something to; ``("*",)``
    is every backend. It is asked for kernels and models for those alone.
    """

    name: str
    summary: str
    api: tuple[int, int]
    backends: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device that a probe found. ``memory_bytes`` is its whole memory, None if unknown.

    ``shared``: several ranks of a group may be on it, as processes on one host's cores are.
    """

    name: str
    index: int = 0
    memory_bytes: int | None = None
    detail: str = ""
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Available:
    """The backend can run here, on any of ``devices`` (at least one).

    ``notes`` are what a user should know although it works (an old driver, a missing fast path).
    """

    devices: tuple[Device, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The backend cannot run here: why, and what would change that."""

    reason: str
    fix: str


ProbeResult: TypeAlias = Available | Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOption:
    """An option that a plugin adds: ``--device-opt <plugin>.<name>=<value>``.

    Values are text; a hook gets the plugin's declared options, those not given with their
    ``default``. A non-empty ``choices`` is enforced by core.
    """

    name: str
    summary: str
    default: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOverride:
    """A backend's own model module instead of the shared one, for one architecture.

    It is reported at start with its ``reason``. That it computes what the shared model does is the
    plugin's own claim: no check of zif's compares the two.
    """

    architecture: str
    module: str
    reason: str
