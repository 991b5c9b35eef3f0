"""Calling a kernel in the two ways that the engine does: as it is, and inside a compiled program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zif.contract.arrays import ArraySpec, tree_leaves, tree_map
from zif.contract.backend import Backend
from zif.contract.executable import Executable

A = np.ndarray[Any, Any]
SLICED = ("x", "q", "k", "v", "latent")
"""Parameters whose rows may lie apart: [T, ...], the rest of a row in one piece."""
BESIDE = 64
"""Columns on both sides of a view, of NaN."""
CONSUMED = "target"
"""The parameter of ``put`` and ``add_at`` that they consume: a resident that is donated."""


@dataclass
class Call:
    """A kernel and its arguments: host arrays in their final dtypes, weights packed.

    ``new_cache`` gives a filled cache for each call, or None to an op that takes none. ``executable``
    is there once the call was compiled, and serves the calls after it.
    """

    backend: Backend
    name: str
    fn: Callable[..., Any]
    arguments: Mapping[str, Any]
    new_cache: Callable[[], Any]
    results: Sequence[tuple[tuple[int, ...], str]]
    executable: Executable | None = None

    @property
    def strided(self) -> tuple[str, ...]:
        """The arguments that a model may slice from a wider array, as q, k and v from what a fused linear gave."""
        given = {name: value for name, value in self.arguments.items() if isinstance(value, np.ndarray)}
        return tuple(
            name for name in SLICED if name in given and given[name].ndim > 1 and given[name].dtype.kind not in "iub"
        )


def call_eager(call: Call) -> tuple[list[A], Any]:
    """(results on the host, the cache): every array is put on the device, then the kernel is called."""
    return _called(call, strided=())


def call_strided(call: Call) -> tuple[list[A], Any]:
    """The same, where arrays that a model may slice from a wider one are such views."""
    return _called(call, strided=call.strided)


def _called(call: Call, strided: Sequence[str]) -> tuple[list[A], Any]:
    put = call.backend.runtime.put
    arguments = {
        name: value if _resident(value) else tree_map(lambda leaf: _put(put, leaf), value)
        for name, value in call.arguments.items()
        if name not in strided
    }
    arguments |= {name: _view(put, call.arguments[name]) for name in strided}
    cache = call.new_cache()
    if cache is not None:
        arguments["cache"] = cache
    arrays, cache = _split(call, call.fn(**arguments), has_cache=cache is not None)
    fetched = call.backend.runtime.fetch({str(i): array for i, array in enumerate(arrays)}).wait()
    return [fetched[str(i)] for i in range(len(arrays))], cache


def call_compiled(call: Call) -> tuple[list[A], Any]:
    """The same through an executable: host arrays are staged, weights and the cache are residents."""
    staged: dict[str, A] = {}
    resident = {name: value for name, value in call.arguments.items() if _resident(value) and not callable(value)}
    for name, value in call.arguments.items():
        if name == CONSUMED:
            resident[name] = tree_map(call.backend.runtime.put, value)
        elif name not in resident:
            staged |= {f"{name}.{i}": leaf for i, leaf in enumerate(_arrays(value))}
    donate = [CONSUMED] if CONSUMED in resident else []
    filled = call.new_cache()
    if filled is not None:
        resident["cache"] = filled
        donate.append("cache")

    def program(inputs: dict[str, Any], residents: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        arguments = {name: _rebuilt(name, value, inputs) for name, value in call.arguments.items()} | residents
        arrays, cache = _split(call, call.fn(**arguments), has_cache=filled is not None)
        updates: dict[str, Any] = {}
        if "cache" in residents:
            updates["cache"] = cache if cache is not None else residents["cache"]
        if CONSUMED in residents:
            updates[CONSUMED] = arrays[0]
            arrays = [arrays[0] * 1]
        return {str(i): array for i, array in enumerate(arrays)}, updates

    if call.executable is None:
        call.executable = call.backend.executables.compile(
            call.name,
            program,
            {key: ArraySpec(host.shape, host.dtype.name) for key, host in staged.items()},
            {str(i): ArraySpec(shape, dtype) for i, (shape, dtype) in enumerate(call.results)},
            resident,
            tuple(donate),
        )
    outputs, updates = call.executable.run(call.executable.stage(staged), resident)
    fetched = call.backend.runtime.fetch(outputs).wait()
    return [fetched[str(i)] for i in range(len(outputs))], updates.get("cache")


def _split(call: Call, result: Any, *, has_cache: bool) -> tuple[list[Any], Any]:
    """(the result's arrays, the cache among them)."""
    if not has_cache or (call.results and not isinstance(result, tuple)):
        return list(tree_leaves(result)), None
    if not call.results:
        return [], result
    *arrays, cache = result
    return list(tree_leaves(arrays)), cache


def _resident(value: Any) -> bool:
    """Weights, which are on the device already, and functions."""
    if callable(value):
        return True
    leaves = [leaf for leaf in tree_leaves(value) if hasattr(leaf, "shape")]
    return bool(leaves) and not any(isinstance(leaf, np.ndarray) for leaf in leaves)


def _arrays(value: Any) -> Iterator[A]:
    for leaf in tree_leaves(value):
        if isinstance(leaf, np.ndarray):
            yield leaf


def _rebuilt(name: str, value: Any, inputs: Mapping[str, Any]) -> Any:
    """``value`` with its host arrays replaced by what they were staged as."""
    if _resident(value) or name == CONSUMED:
        return value
    staged = {id(leaf): f"{name}.{i}" for i, leaf in enumerate(_arrays(value))}
    return tree_map(lambda leaf: inputs[staged[id(leaf)]] if id(leaf) in staged else leaf, value)


def _view(put: Callable[[A], Any], host: A) -> Any:
    """``host`` on the device, its rows cut from longer ones."""
    rows = host.reshape(len(host), -1)
    beside = np.full((len(host), BESIDE), np.nan).astype(host.dtype)
    longer = put(np.concatenate([beside, rows, beside], 1))
    return longer[:, BESIDE : BESIDE + rows.shape[1]].reshape(*host.shape)


def _put(put: Callable[[A], Any], leaf: Any) -> Any:
    return put(leaf) if isinstance(leaf, np.ndarray) else leaf
