"""``zif check``: does a backend keep the contract?"""

from __future__ import annotations

import argparse

from zif.cli.output import configure_logging, print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the backend, and which checks to run on it."""
    parser.add_argument("--device", default="auto", help="backend to check, as `zif devices` lists them")
    parser.add_argument("--device-opt", action="append", default=[], help="backend.key=value: an option of its own")
    parser.add_argument("--only", action="append", metavar="SECTION", help="run this section alone; can be repeated")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report; the exit code is 1 if a check failed."""
    configure_logging(args.log_level or "warning")
    from zif.conformance import run as run_checks

    report = run_checks(args.device, args.device_opt, only=args.only)
    if args.json:
        print_json(report.as_json())
    else:
        print_table(report.rows())
        print(report.summary())
    return 0 if report.passed else 1
