"""Run in a fresh interpreter by :mod:`zif.conformance.hygiene`: import a plugin, make its backend, compare."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from types import FunctionType, ModuleType
from typing import Any

import zif
from zif.contract.ops import op_specs
from zif.plugins import select
from zif.plugins.loading import FRAMEWORKS, HOOKS

OUTSIDE = ("zif.reference", "zif.portable", "zif.null")
"""Packages that are plugin territory, or import frameworks."""


def main(device: str, options: list[str]) -> None:
    """Print a JSON object: a check, and what is wrong or null."""
    import_core()
    before, ops, environment = snapshot(), dict(op_specs()), dict(os.environ)
    selection = select(device, options)
    plugin = selection.plugin
    frameworks = sorted(plugin.imported_frameworks)
    module: Any = plugin.found.entry_point.load()
    backend = selection.create_backend()
    from zif.conformance.hygiene import check_capabilities

    report = {
        "hooks are named right": misnamed_hooks(module),
        "imports no framework": f"its module or probe imports {', '.join(frameworks)}" if frameworks else None,
        "core is left as it is": changed(before, snapshot()) or changed_ops(ops),
        "the environment is left as it is": changed_environment(environment, plugin.environment(selection.options)),
        "capabilities": check_capabilities(backend.capabilities.dtypes, backend.capabilities.page_sizes),
    }
    print()  # a plugin may have left a line open
    print(json.dumps(report))


def import_core() -> None:
    """Import all of core that needs no framework, so that a change of any of it can be seen."""
    _import_below("zif", zif.__path__)
    leaked = FRAMEWORKS & sys.modules.keys()
    assert not leaked, f"core imports {sorted(leaked)}"


def _import_below(package: str, path: Iterable[str]) -> None:
    for found in pkgutil.iter_modules(path):
        name = f"{package}.{found.name}"
        if name in OUTSIDE or found.name == "__main__":
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:  # a module of an extra that is not installed
            continue
        if found.ispkg:
            _import_below(name, module.__path__)


def snapshot() -> dict[str, Any]:
    """Every name in core's modules, and in their classes, with what it is bound to."""
    names: dict[str, Any] = {}
    for module_name, module in list(sys.modules.items()):
        if not (module_name == "zif" or module_name.startswith("zif.")) or module_name.startswith(OUTSIDE):
            continue
        for name, value in vars(module).items():
            if name.startswith("__") or isinstance(value, ModuleType):
                continue
            names[f"{module_name}.{name}"] = value
            if isinstance(value, FunctionType):
                names[f"{module_name}.{name}.__code__"] = value.__code__
            if inspect.isclass(value) and value.__module__ == module_name:
                for attribute, member in vars(value).items():
                    if attribute not in _VOLATILE:
                        names[f"{module_name}.{name}.{attribute}"] = member
                        code = getattr(inspect.unwrap(member), "__code__", None) if callable(member) else None
                        if code is not None:
                            names[f"{module_name}.{name}.{attribute}.__code__"] = code
    return names


_VOLATILE = ("__abstractmethods__", "_abc_impl", "__doc__", "__annotations__", "__annotations_cache__")


def changed(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """The first names of core that were assigned to, added or deleted."""
    modules = {name.rpartition(".")[0] for name in before}
    lazy = set(zif._LAZY) | {"__version__"}
    wrong = [name for name, value in before.items() if name not in after or after[name] is not value]
    wrong += [
        name
        for name in after.keys() - before.keys()
        if name.rpartition(".")[0] in modules and not (name.count(".") == 1 and name.partition(".")[2] in lazy)
    ]
    return f"it assigns to {', '.join(sorted(wrong)[:5])}" if wrong else None


def changed_environment(before: dict[str, str], declared: Mapping[str, str]) -> str | None:
    """Variables that were set or removed, but for those that the plugin declares by ``zif_environment``."""
    own = {*declared, "TORCH_DEVICE_BACKEND_AUTOLOAD"}  # core sets the latter
    names = (before.keys() | os.environ.keys()) - own
    wrong = sorted(name for name in names if before.get(name) != os.environ.get(name))
    return f"it sets {', '.join(wrong)}: zif_environment is there for that" if wrong else None


def changed_ops(before: dict[str, Any]) -> str | None:
    """Ops of the contract that were replaced or added."""
    after = op_specs()
    wrong = [name for name in after.keys() | before.keys() if after.get(name) is not before.get(name)]
    return f"it changes the contract's ops {', '.join(sorted(wrong))}" if wrong else None


def misnamed_hooks(module: Any) -> str | None:
    """Functions that look like hooks and are none."""
    strange = [name for name in dir(module) if name.startswith("zif_") and name not in HOOKS]
    strange = [name for name in strange if not isinstance(getattr(module, name), ModuleType)]
    return f"{', '.join(strange)}: there is no such hook; there are {', '.join(sorted(HOOKS))}" if strange else None
