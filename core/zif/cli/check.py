"""``zif check``: does a backend keep the contract?"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from zif.cli.output import print_json, print_table
from zif.logs import configure_logging


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the backend, and which checks to run on it."""
    parser.add_argument("--device", default="auto", help="backend to check, as `zif devices` lists them")
    parser.add_argument("--device-opt", action="append", default=[], help="backend.key=value: an option of its own")
    parser.add_argument(
        "--only", action="append", metavar="NAME",
        help="run this section (hygiene, communicator, runtime, executables, ops, engine) or check alone; globs; "
        "can be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--waivers", type=Path, metavar="FILE", help="TOML file of failures that are known, each with the reason"
    )
    parser.add_argument(
        "--profile", action="append", metavar="NAME", default=[],
        help="check this profile (llm, moe, mla) instead of those that the plugin claims; can be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="one dtype, no lossy caches, and of the engine the comparison with float64"
    )
    parser.add_argument("--large", action="store_true", help="ops at the sizes of served models too: on a device")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all inputs (default 0)")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the report as JUnit's XML too")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report; the exit code is 1 if a check failed. A terminal is told what is being checked."""
    configure_logging(args.log_level or "warning")
    progress = args.log_level or ("info" if sys.stderr.isatty() else "warning")
    logging.getLogger("zif.conformance").setLevel(progress.upper())  # its own: engines are checked in silence
    from zif.conformance import run as run_checks
    from zif.conformance.junit import as_junit
    from zif.conformance.scope import Scope
    from zif.conformance.waivers import read_waivers

    scope = Scope(quick=args.quick, seed=args.seed, large=args.large)
    waivers = read_waivers(args.waivers) if args.waivers is not None else ()
    chosen = {"only": args.only, "waivers": waivers, "profiles": args.profile, "scope": scope}
    report = run_checks(args.device, args.device_opt, **chosen)
    if args.junit is not None:
        args.junit.write_text(as_junit(report), encoding="utf-8")
    if args.json:
        print_json(report.as_json())
    else:
        print_table(report.rows())
        print(report.summary())
    return 0 if report.passed else 1
