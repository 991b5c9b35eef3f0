"""Which plugins are installed: entry-point metadata alone, no plugin is imported."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from zif.contract.info import BACKENDS, EXTENSIONS

__all__ = ["BACKENDS", "EXTENSIONS", "Found", "how_to_install", "installable", "installed"]


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


def how_to_install(name: str) -> str:
    """The command that installs a backend of zif's own: it is in zif's source tree, and in no package index."""
    tree = _source_tree()
    if tree is not None:
        return f"pip install -e {shlex.quote(str(tree / 'backends' / name))}"
    return f"pip install -e backends/{name}, in a clone of zif's source"


def _source_tree() -> Path | None:
    """Where zif runs from its source, the top of that."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "backends").is_dir() and (root / "pyproject.toml").is_file() else None


def installable() -> dict[str, str]:
    """Backends that zif's extras name, each with the distribution that brings it (:func:`how_to_install`).

    Core holds no list of devices: the extras in its packaging metadata are the list.
    """
    extras = {}
    for requirement in importlib.metadata.requires("zif") or []:
        match = re.fullmatch(r"(zif-[\w-]+)\b.*;\s*extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if match and match[1] == f"zif-{match[2]}":
            extras[match[2]] = match[1]
    tree = _source_tree()
    if tree is None:
        return extras
    return {name: dist for name, dist in extras.items() if (tree / "backends" / name / "pyproject.toml").is_file()}
