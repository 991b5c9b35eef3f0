"""The waivers file: failures that are known, each with the place where it is tracked."""

from __future__ import annotations

import tomllib
from pathlib import Path

from zif.conformance.results import Waiver
from zif.contract.errors import InvalidSettings


def read_waivers(path: Path) -> list[Waiver]:
    """Read a TOML file of ``[[waiver]]`` tables with ``match`` (a glob of names) and ``reason``.

    Raises :class:`InvalidSettings` for anything else in it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSettings(f"--waivers {path}: {' '.join(str(error).split())}") from error
    entries = content.pop("waiver", [])
    if content or not isinstance(entries, list):
        raise InvalidSettings(f"--waivers {path}: it may hold [[waiver]] tables alone")
    return [_waiver(path, number, entry) for number, entry in enumerate(entries, 1)]


def _waiver(path: Path, number: int, entry: object) -> Waiver:
    if not isinstance(entry, dict) or entry.keys() != {"match", "reason"}:
        raise InvalidSettings(f"--waivers {path}: waiver {number} must have match and reason, and nothing else")
    if not all(isinstance(value, str) and value.strip() for value in entry.values()):
        raise InvalidSettings(f"--waivers {path}: waiver {number}: match and reason must be text, and not empty")
    return Waiver(entry["match"], entry["reason"])
