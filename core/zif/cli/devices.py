"""``zif devices``: which backends are installed, which of them can run here, and why not the others.

It imports no framework, nor the settings model: an answer in well under half a second.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from zif.cli.output import gibibytes, print_json, print_table
from zif.contract.errors import InvalidSettings
from zif.contract.info import Available
from zif.plugins import Considered, survey, survey_extensions
from zif.plugins.extending import ConsideredExtension
from zif.plugins.selection import parse_device_opts

NEVER_RUN = "never run on its hardware"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--ops", metavar="NAME", help="which kernel of a backend serves each op, and why others do not")
    parser.add_argument("--model", metavar="M", help="with --ops: what each op costs in a step of this model, and why")
    parser.add_argument(
        "--device-opt", action="append", default=[], help="backend.key=value: an option of a backend's own"
    )


def run(args: argparse.Namespace) -> int:
    """Print the table; the exit code is 1 if `--device auto` would find none."""
    if args.model is not None and args.ops is None:
        raise InvalidSettings("--model needs --ops NAME, the backend on which the model's ops are costed")
    if args.ops is not None and args.model is not None:
        from zif.cli.costs import print_costs

        return print_costs(args.ops, args.device_opt, args.model, as_json=args.json)
    if args.ops is not None:
        from zif.cli.kernels import print_kernels

        return print_kernels(args.ops, args.device_opt, as_json=args.json)
    entries = survey(parse_device_opts(args.device_opt))
    extensions = survey_extensions()
    if args.json:
        print_json([*map(_as_json, entries), *map(_extension_as_json, extensions)])
    else:
        _print(entries)
        _print_extensions(extensions)
    return 0 if any(entry.taken_by_auto for entry in entries) else 1


def _print(entries: tuple[Considered, ...]) -> None:
    print_table(
        [
            {"device": name, "status": entry.verdict, "from": entry.distribution, "memory": memory, "detail": detail}
            for entry in entries
            for name, memory, detail in _lines(entry)
        ],
        columns=("device", "status", "from", "memory", "detail"),
    )
    for entry in entries:
        for note in _notes(entry):
            print(f"{entry.name}: {note}")


def _print_extensions(entries: tuple[ConsideredExtension, ...]) -> None:
    if entries:
        print()
        print_table(
            [
                {
                    "extension": entry.found.name,
                    "status": entry.verdict,
                    "from": str(entry.found),
                    "for": ", ".join(entry.plugin.info.backends) if entry.plugin else "-",
                    "detail": entry.plugin.info.summary if entry.plugin else entry.reason,
                }
                for entry in entries
            ],
            columns=("extension", "status", "from", "for", "detail"),
        )


def _lines(entry: Considered) -> list[tuple[str, str, str]]:
    """(device, memory, detail) of each device; one line for a backend that has none."""
    if not isinstance(entry.probe, Available):
        return [(entry.name, "-", entry.reason)]
    several = len(entry.probe.devices) > 1
    return [
        (f"{entry.name}:{d.index}" if several else entry.name, gibibytes(d.memory_bytes), d.detail or d.name)
        for d in entry.probe.devices
    ]


def _notes(entry: Considered) -> list[str]:
    notes = [entry.reason] if entry.reason and entry.verdict == "available" else []
    if entry.fix:
        notes.append(f"fix: {entry.fix}")
    if entry.info is not None and entry.info.verified_on is None:
        notes.append(NEVER_RUN)
    return notes


def _as_json(entry: Considered) -> dict[str, Any]:
    info = entry.info
    return {
        "kind": "backend",
        "name": entry.name,
        "distribution": entry.distribution,
        "status": entry.verdict,
        "reason": entry.reason,
        "fix": entry.fix,
        "devices": [asdict(d) for d in entry.probe.devices] if isinstance(entry.probe, Available) else [],
        "summary": info.summary if info else None,
        "framework": info.framework if info else None,
        "profiles": list(info.profiles) if info else [],
        "preference": info.preference if info else None,
        "verified_on": info.verified_on if info else None,
        "api_version": entry.plugin.api_version if entry.plugin else None,
        "options": [asdict(option) for option in entry.plugin.options] if entry.plugin else [],
    }


def _extension_as_json(entry: ConsideredExtension) -> dict[str, Any]:
    info = entry.plugin.info if entry.plugin else None
    return {
        "kind": "extension",
        "name": entry.found.name,
        "distribution": str(entry.found),
        "status": entry.verdict,
        "reason": entry.reason,
        "summary": info.summary if info else None,
        "backends": list(info.backends) if info else [],
        "api_version": entry.plugin.api_version if entry.plugin else None,
    }
