"""``zif serve``: the HTTP server."""

from __future__ import annotations

import argparse

from zif.cli.flags import SERVER, add_settings, settings_from
from zif.logs import configure_logging


def configure(parser: argparse.ArgumentParser) -> None:
    """Every setting is a flag."""
    add_settings(parser, SERVER)


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    settings = settings_from(args)
    configure_logging(settings.log_level)
    from zif.server.launch import serve

    return serve(settings)
