"""``zif warmup``: compile and measure ahead what a model needs on a device, so that no request waits for it."""

from __future__ import annotations

import argparse
import time

from zif.cli.flags import add_settings, settings_from
from zif.cli.output import print_json, print_table
from zif.logs import configure_logging


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the engine's settings, which must be those that the model will be served with."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Print what was warmed up, the seconds it took, and where what zif itself keeps lies."""
    settings = settings_from(args)
    configure_logging(settings.log_level if "log_level" in settings.model_fields_set else "warning")
    from zif.process.build import build_engine
    from zif.process.warming import Phase, warm_everything
    from zif.reference.host import user_cache

    begin = time.monotonic()
    engine = build_engine(settings, warm_up=False)
    try:
        phases = [Phase("loading", time.monotonic() - begin), *warm_everything(engine)]
        programs = len(engine.runner.programs)
    finally:
        engine.close()
    kept = str(user_cache() / "zif")
    if args.json:
        seconds = {phase.name: round(phase.seconds, 3) for phase in phases}
        print_json({"seconds": seconds, "programs": programs, "cache": kept})
    else:
        print_table([{"what": phase.name, "seconds": round(phase.seconds, 2)} for phase in phases])
        print(f"{programs} programs. Kept in {kept}, and where the device's compilers keep theirs.")
    return 0
