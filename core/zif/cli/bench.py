"""``zif bench``: throughput and latency, in this process or of a running server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from zif.cli.flags import add_settings, settings_from
from zif.cli.output import print_json, print_table
from zif.logs import configure_logging


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the workload and the engine's settings."""
    from zif.bench.workload import parse_lengths

    parser.add_argument(
        "--workload",
        choices=("offline", "latency", "online", "prefix"),
        default="offline",
        help="all requests at once; one at a time; arriving at random (Poisson); sharing a long prefix",
    )
    parser.add_argument("--num-prompts", type=int, default=64, metavar="INT", help="requests (default: 64)")
    parser.add_argument(
        "--input-len", type=parse_lengths, default=(512, 512), metavar="INT[:INT]",
        help="prompt tokens, or a range to draw from (default: 512)",
    )  # fmt: skip
    parser.add_argument(
        "--output-len", type=parse_lengths, default=(64, 64), metavar="INT[:INT]",
        help="tokens to make, or a range to draw from (default: 64)",
    )  # fmt: skip
    parser.add_argument(
        "--shared-len",
        type=int,
        default=480,
        metavar="INT",
        help="of prefix: prompt tokens shared by all (default: 480)",
    )
    parser.add_argument(
        "--request-rate", type=float, default=4.0, metavar="FLOAT",
        help="of online: requests a second, inf for all at once (default: 4)",
    )  # fmt: skip
    parser.add_argument(
        "--base-url", metavar="URL", help="of online: a server that runs already, instead of an own one"
    )
    parser.add_argument("--temperature", type=float, default=0.0, metavar="FLOAT", help="of sampling (default: 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="of prompts and arrivals (default: 0)")
    parser.add_argument("--no-warmup", action="store_true", help="measure the first pass, compilation included")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="also draw the figures (needs `pip install matplotlib`)"
    )
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Print the figures; the exit code is 1 if a request failed."""
    settings = settings_from(args)
    configure_logging(settings.log_level if "log_level" in settings.model_fields_set else "warning")
    from zif.bench import Workload, plot
    from zif.bench import run as run_bench

    workload = Workload(
        kind=args.workload,
        num_prompts=args.num_prompts,
        input_len=args.input_len,
        output_len=args.output_len,
        shared_len=args.shared_len,
        request_rate=args.request_rate,
        base_url=args.base_url,
        temperature=args.temperature,
        seed=args.seed,
        warmup=not args.no_warmup,
    )
    result = run_bench(workload, settings)
    if args.json:
        print_json(result.as_json())
    else:
        print_table(result.rows())
    for error in dict.fromkeys(result.errors):
        print(f"error: {error} ({result.errors.count(error)} requests)", file=sys.stderr)
    if args.plot is not None:
        plot(result, args.plot)
    return 1 if result.errors else 0
