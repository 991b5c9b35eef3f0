"""Which plugins are installed: entry-point metadata alone, no plugin is imported."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass

from zif.contract.info import BACKENDS, EXTENSIONS

__all__ = ["BACKENDS", "EXTENSIONS", "Found", "installable", "installed"]


@dataclass(frozen=True, slots=True)
class Found:
    """An entry point, and the distribution that a user would upgrade, or blame."""

    name: str
    group: str
    distribution: str
    version: str
    entry_point: importlib.metadata.EntryPoint

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def installed(group: str = BACKENDS) -> tuple[Found, ...]:
    """Every entry point of ``group``, by name; two distributions may claim one name."""
    found = []
    for entry_point in importlib.metadata.entry_points(group=group):
        dist = entry_point.dist
        name, version = (dist.name, dist.version) if dist is not None else ("unknown distribution", "?")
        found.append(Found(entry_point.name, group, name, version, entry_point))
    return tuple(sorted(found, key=lambda f: (f.name, f.distribution)))


def installable() -> dict[str, str]:
    """Backends that zif's own extras name, each with the distribution that brings it.

    Core holds no list of devices: the extras in its packaging metadata are the list.
    """
    extras = {}
    for requirement in importlib.metadata.requires("zif") or []:
        match = re.fullmatch(r"(zif-[\w-]+)\b.*;\s*extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if match and match[1] == f"zif-{match[2]}":
            extras[match[2]] = match[1]
    return extras
