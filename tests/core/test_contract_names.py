"""The names of the plugin API are pinned: one that goes, or changes its parameters' names, breaks a plugin.

Ops are pinned by docs/ops.md. After a change that is meant, ``python tests/core/test_contract_names.py`` rewrites the
list, and the diff is reviewed.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import zif.contract

PINNED = Path(__file__).with_name("contract_names.txt")


def contract_names() -> list[str]:
    """``module.name(parameters)`` of all that the contract's modules define, and members of protocols."""
    lines: list[str] = []
    for module_info in pkgutil.iter_modules(zif.contract.__path__):
        module = importlib.import_module(f"zif.contract.{module_info.name}")
        for name, value in vars(module).items():
            home = getattr(value, "__module__", None) or ""
            ours = home == module.__name__ or home.startswith(f"{module.__name__}.")  # of a package: its modules' too
            if ours and not name.startswith("_") and not isinstance(value, TypeVar):
                lines += list(_described(f"{module_info.name}.{name}", value))
    return sorted(lines)


def _described(path: str, value: object) -> Iterator[str]:
    if getattr(value, "_is_protocol", False):
        for name, member in {**getattr(value, "__annotations__", {}), **vars(value)}.items():
            if not name.startswith("_"):
                yield from _described(f"{path}.{name}", member)
    else:
        yield path + _parameters(value)


def _parameters(value: object) -> str:
    try:
        return "(" + ", ".join(inspect.signature(value).parameters) + ")" if callable(value) else ""
    except ValueError:  # an exception class without an __init__ of its own
        return ""


def test_names_of_the_plugin_api_are_pinned() -> None:
    assert contract_names() == PINNED.read_text().splitlines()


if __name__ == "__main__":
    PINNED.write_text("\n".join(contract_names()) + "\n")
