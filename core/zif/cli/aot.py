"""``zif aot``: compile a model's steps for hardware that is not there."""

from __future__ import annotations

import argparse
from pathlib import Path

from zif.cli.flags import ENGINE, add_settings, settings_from
from zif.cli.output import gibibytes, print_json, print_table
from zif.logs import configure_logging


def configure(parser: argparse.ArgumentParser) -> None:
    """The settings of an engine, the target and which programs."""
    add_settings(parser, ENGINE)
    parser.add_argument("--target", required=True, help="hardware to compile for, as the backend names it (v6e:2x4)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="compile these programs alone; can be repeated"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="save the compiled programs there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Print a row a program; exit code 1 if one does not fit in the target's memory.

    All devices of the target share the model's layers, unless ``--tp-size`` says how many.
    """
    settings = settings_from(args)
    configure_logging(args.log_level or "warning")
    from zif.process.ahead import Ahead

    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
    ahead = Ahead(settings, args.target)
    rows = list(ahead.steps(args.only, args.output))
    if args.json:
        print_json({**ahead.facts, "programs": rows})
    else:
        sizes = {name: gibibytes(ahead.facts[f"{name}_bytes"]) for name in ("memory", "weight", "cache")}
        print(f"{ahead.facts['target']}: memory {sizes['memory']}, weights {sizes['weight']}, cache {sizes['cache']}")
        print_table(rows)
        for row in rows:
            if "refusal" in row:
                print(row["refusal"])
        print("compiled, not run: roofline figures are bounds that no run can beat")
    return 0 if all(row["fits"] for row in rows) else 1
