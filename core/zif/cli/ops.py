"""``zif ops [NAME]``: what an op means and what a kernel of it is given, from its specification."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from zif.cli.output import print_table
from zif.contract.errors import InvalidSettings
from zif.contract.opspec import OpSpec

PADDING = (
    "rows behind step.num_tokens are padding: they hold anything, NaN included, and what comes of them is not read; "
    "padding writes to page 0 alone"
)
VIEWS = "rows may lie apart, as slices of a wider array do; a row is in one piece"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the op, and a backend."""
    parser.add_argument("name", nargs="?", help="an op; without, all are listed")
    parser.add_argument("--device", metavar="NAME", help="also say which kernels of a backend serve it")
    parser.add_argument("--device-opt", action="append", default=[], help="backend.key=value: an option of its own")


def run(args: argparse.Namespace) -> int:
    """Print. Raises InvalidSettings for an op that there is not."""
    from zif.contract.ops import op_specs

    specs = op_specs()
    if args.name is None:
        print_table([{"op": name, "profile": spec.profile, "meaning": _summary(spec)} for name, spec in specs.items()])
        return 0
    if args.name not in specs:
        raise InvalidSettings(f"zif ops {args.name}: there is no such op; there are {', '.join(specs)}")
    print("\n".join(_lines(specs[args.name])))
    if args.device is not None:
        from zif.cli.kernels import print_kernels

        print()
        return print_kernels(args.device, args.device_opt, as_json=False, only=args.name)
    return 0


def _summary(spec: OpSpec) -> str:
    return (inspect.getdoc(spec.reference) or "").partition("\n\n")[0].replace("\n", " ")


def _lines(spec: OpSpec) -> Iterator[str]:
    yield f"{spec.name}({', '.join(spec.parameters)})"
    yield f"profile {spec.profile}, since level {spec.since}"
    yield ""
    yield inspect.getdoc(spec.reference) or ""
    yield from _section("facts of a request", {fact.name: fact.meaning for fact in spec.facts})
    yield from _section("arguments, of one case", _arguments(spec))
    rules = {}
    if "step" in spec.parameters:
        rules["padding"] = PADDING
    views = [name for name in spec.parameters if name in _sliced()]
    if views and spec.profile != "array":
        rules["strides"] = f"{', '.join(views)}: {VIEWS}"
    if spec.static:
        rules["constants"] = f"{', '.join(spec.static)}: hashable, never Arrays"
    if spec.dispatch is not None:
        rules["dispatch"] = f"kernels of one model may differ by {spec.dispatch}"
    if spec.opaque_to:
        rules["forms"] = f"its first result may go, in a form of the kernels' own, to {', '.join(spec.opaque_to)}"
    yield from _section("rules", rules)
    allowed = {
        dtype: f"|got - reference| <= {tolerance.atol:g} + {tolerance.rtol:g} |reference|"
        for dtype, tolerance in spec.tolerances.items()
    }
    yield from _section("tolerances", allowed)


def _sliced() -> tuple[str, ...]:
    from zif.conformance.calls import SLICED

    return SLICED


def _section(title: str, entries: Mapping[str, str]) -> Iterator[str]:
    if entries:
        yield ""
        yield f"{title}:"
        width = max(map(len, entries))
        yield from (f"  {name:{width}}  {value}" for name, value in entries.items())


def _arguments(spec: OpSpec) -> dict[str, str]:
    """Each argument of conformance's first case as its kernels get it, containers with their keys."""
    if spec.cases is None:
        return {}
    case = next(iter(spec.cases(np.random.default_rng(0), "float32")))
    return {name: _told(value) for name, value in case.arguments.items()}


def _told(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{'float' if value.dtype.kind == 'f' else value.dtype} {list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_told(item)}" for key, item in value.items()) + "}"
    if hasattr(value, "arrays"):
        return f"{type(value).__name__} {value.format}, arrays {_told(value.arrays)}"
    if hasattr(value, "query_starts"):
        return f"Step of {value.shape.tokens} tokens and {value.shape.seqs} sequences"
    return type(value).__name__ if callable(value) or hasattr(value, "__dataclass_fields__") else repr(value)
