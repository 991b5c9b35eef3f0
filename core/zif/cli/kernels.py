"""``zif devices --ops NAME``: the kernel that serves each op on a backend, and why others were refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zif.cli.output import print_json, print_table
from zif.contract.bind import Choice, candidates, choose
from zif.contract.errors import KernelNotFound
from zif.contract.kernel import Kernel
from zif.contract.ops import OpRequest, op_specs
from zif.contract.optable import Ops
from zif.plugins import extensions, select


def print_kernels(device: str, device_opts: Sequence[str], *, as_json: bool) -> int:
    """Print the choices for the requests of conformance's cases; exit code 1 if an op has no kernel."""
    selection = select(device, device_opts)
    backend = selection.create_backend()
    providers = [kernels for plugin in extensions() for kernels in plugin.kernels(backend)] + list(backend.kernels())
    kernels = candidates(providers, Ops())
    choices = [
        _explain(request, kernels)
        for name, spec in op_specs().items()
        if spec.profile == "array" or spec.profile in selection.plugin.info.profiles
        for request in _requests(name, backend.capabilities.dtypes)
    ]
    if as_json:
        print_json(choices)
    else:
        print_table(_merge(choices), columns=("op", "dtype", "kernel", "cases", "rejected"))
    return 0 if all(choice["kernel"] for choice in choices) else 1


def _requests(name: str, dtypes: Sequence[str]) -> list[OpRequest]:
    """Requests that are known for the op: its conformance cases', or one that states nothing."""
    spec = op_specs()[name]
    if spec.cases is None:
        return [OpRequest.of(name, dtypes[0])]
    rng = np.random.default_rng(0)
    return list(dict.fromkeys(case.request for dtype in dtypes for case in spec.cases(rng, dtype)))


def _explain(request: OpRequest, kernels: Sequence[Kernel]) -> dict[str, Any]:
    try:
        choice: Choice = choose(request, kernels)
    except KernelNotFound:
        refused = {str(kernel): kernel.supports(request) for kernel in kernels if kernel.op == request.op}
        return {"op": request.op, "request": str(request), "dtype": request.dtype, "kernel": None, "rejected": refused}
    rejected = {entry.kernel: entry.reason for entry in choice.rejected}
    return {
        "op": request.op,
        "request": str(request),
        "dtype": request.dtype,
        "kernel": str(choice.kernel),
        "rejected": rejected,
    }


def _merge(choices: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for an op's requests that were decided alike."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for choice in choices:
        rejected = "; ".join(f"{kernel}: {reason}" for kernel, reason in choice["rejected"].items())
        key = (choice["op"], choice["dtype"], choice["kernel"] or "NONE", rejected)
        row = rows.setdefault(key, dict(zip(("op", "dtype", "kernel", "rejected"), key, strict=True)) | {"cases": 0})
        row["cases"] += 1
    return list(rows.values())
