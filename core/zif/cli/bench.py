"""``zif bench``: throughput and latency, in this process or of a running server."""

from __future__ import annotations

import argparse
from pathlib import Path

from zif.cli.flags import add_settings, settings_from
from zif.cli.output import configure_logging, print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the workload and the engine's settings."""
    parser.add_argument(
        "--workload",
        choices=("offline", "latency", "online", "prefix"),
        default="offline",
        help="all requests at once; one at a time; arriving at random (Poisson); sharing a long prefix",
    )
    parser.add_argument("--num-prompts", type=int, default=64, metavar="INT", help="requests (default: 64)")
    parser.add_argument("--input-len", type=int, default=512, metavar="INT", help="prompt tokens (default: 512)")
    parser.add_argument("--output-len", type=int, default=64, metavar="INT", help="tokens to make (default: 64)")
    parser.add_argument(
        "--shared-len", type=int, default=480, metavar="INT", help="of prefix: prompt tokens shared by all"
    )
    parser.add_argument("--request-rate", type=float, default=4.0, metavar="FLOAT", help="of online: requests a second")
    parser.add_argument(
        "--base-url", metavar="URL", help="of online: a server that runs already, instead of an own one"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help='also draw the figures (needs `pip install "zif[plot]"`)'
    )
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Print the figures."""
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
    )
    result = run_bench(workload, settings)
    if args.json:
        print_json(result.as_json())
    else:
        print_table(result.rows())
    if args.plot is not None:
        plot(result, args.plot)
    return 0
