"""``zif devices --ops NAME``: the kernel that serves each op on a backend, and why others were refused.

The requests are those of conformance's cases, with weights in the backend's own packed format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from zif.cli.output import print_json, print_table
from zif.conformance.opcheck import NotStored, Offer, Subject, cases_of
from zif.conformance.profiles import required
from zif.contract.errors import KernelNotFound
from zif.contract.ops import op_specs
from zif.plugins import extension_formats, extension_kernels, select


def print_kernels(device: str, device_opts: Sequence[str], *, as_json: bool, only: str | None = None) -> int:
    """Print the choices, of all ops or of ``only`` one.

    The exit code is 1 if the backend serves nothing of an op that its profiles require.
    """
    selection = select(device, device_opts)
    backend = selection.create_backend()
    name = selection.plugin.name
    kernels = [*extension_kernels(backend, name), *backend.kernels()]
    formats = [*extension_formats(backend, name), *backend.cache_formats()]
    names = [only] if only else required(selection.plugin.info.profiles, selection.plugin.api_version)
    choices = list(_choices(Offer(backend, kernels, formats), names))
    if as_json:
        print_json(choices)
    else:
        print_table(_merge(choices), columns=("op", "dtype", "kernel", "cases", "rejected"))
    return 0 if all(choice["kernel"] for choice in choices) else 1


def _choices(offer: Offer, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        spec = op_specs()[name]
        for dtype in offer.backend.capabilities.dtypes:
            for case in cases_of(spec, dtype, 0, offer.caches(dtype)):
                rng = np.random.default_rng(0)
                cache = dict(case.request.facts).get("cache_format", dtype)
                shown = dtype if cache == dtype else f"{dtype}, {cache} cache"
                row = {"op": name, "dtype": shown, "case": case.label}
                try:
                    subject = Subject.make(offer, spec, case, dtype, "packed", rng, padded=False)
                except NotStored:
                    continue
                except KernelNotFound as error:
                    yield row | {"request": str(case.request), "kernel": None, "rejected": {"all": str(error)}}
                else:
                    kernel = str(subject.kernels[0])
                    yield row | {"request": str(subject.request), "kernel": kernel, "rejected": dict(subject.refused)}


def _merge(choices: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for an op's cases that were decided alike."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for choice in choices:
        rejected = "; ".join(f"{kernel}: {reason}" for kernel, reason in choice["rejected"].items())
        key = (choice["op"], choice["dtype"], choice["kernel"] or "NONE", " ".join(rejected.split()))
        row = rows.setdefault(key, dict(zip(("op", "dtype", "kernel", "rejected"), key, strict=True)) | {"cases": 0})
        row["cases"] += 1
    return list(rows.values())
