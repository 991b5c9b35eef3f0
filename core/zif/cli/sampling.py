"""Flags of ``generate`` and ``chat`` that say how tokens are drawn."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from zif.sampling.params import SamplingParams

_FLAGS: dict[str, tuple[type, str]] = {
    "max_tokens": (int, "longest answer, in tokens"),
    "temperature": (float, "0 always takes the most likely token"),
    "top_k": (int, "draw from the k most likely tokens; 0: from all"),
    "top_p": (float, "draw from the most likely tokens that have this probability together"),
    "min_p": (float, "drop tokens less likely than this share of the most likely one"),
    "repetition_penalty": (float, "over 1: makes tokens that were there less likely"),
    "seed": (int, "seed of the random numbers that tokens are drawn with"),
}


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("sampling")
    for name, (kind, text) in _FLAGS.items():
        group.add_argument("--" + name.replace("_", "-"), type=kind, metavar=kind.__name__.upper(), help=text)
    group.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; can be repeated")
    group.add_argument("--ignore-eos", action="store_true", help="go on after the model's end-of-sequence token")


def sampling_from(args: argparse.Namespace, defaults: Mapping[str, Any] | None = None) -> SamplingParams:
    """What the flags say, and for the others the model's ``defaults``.

    Raises :class:`~zif.contract.errors.InvalidRequest`.
    """
    given = {name: value for name in _FLAGS if (value := getattr(args, name)) is not None}
    return SamplingParams(**{**(defaults or {}), **given}, stop=tuple(args.stop or ()), ignore_eos=args.ignore_eos)
