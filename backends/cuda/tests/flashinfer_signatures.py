"""Parameters of the flashinfer functions that the backend calls, as its package has them.

``python flashinfer_signatures.py`` prints them of the flashinfer that is installed, for ``flashinfer_signatures.json``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

PINNED = Path(__file__).with_suffix(".json")


def pinned() -> dict[str, inspect.Signature]:
    return {name: _signature(parameters) for name, parameters in json.loads(PINNED.read_text()).items()}


def installed() -> dict[str, list[list[Any]]]:
    from flashinfer import BatchPrefillWithPagedKVCacheWrapper as Wrapper
    from flashinfer.jit.attention import gen_batch_prefill_module

    functions: dict[str, Callable[..., Any]] = {
        "__init__": Wrapper.__init__,
        "plan": Wrapper.plan,
        "run": Wrapper.run,
        "reset_workspace_buffer": Wrapper.reset_workspace_buffer,
        "gen_batch_prefill_module": gen_batch_prefill_module,
    }
    return {name: _described(function) for name, function in functions.items()}


def _described(function: Callable[..., Any]) -> list[list[Any]]:
    """(name, kind, whether there is a default) of each parameter."""
    parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
    return [[one.name, int(one.kind), one.default is not inspect.Parameter.empty] for one in parameters]


def _signature(parameters: list[list[Any]]) -> inspect.Signature:
    empty = inspect.Parameter.empty
    kinds = {int(kind): kind for kind in type(inspect.Parameter.VAR_KEYWORD)}
    return inspect.Signature(
        [inspect.Parameter(name, kinds[kind], default=None if default else empty) for name, kind, default in parameters]
    )


if __name__ == "__main__":
    print(json.dumps(installed(), indent=1))
