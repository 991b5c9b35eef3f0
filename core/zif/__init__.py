"""zif: an LLM serving runtime whose core knows no hardware; every accelerator is a plugin.

Usage::

    import zif

    llm = zif.LLM()  # the bundled model; or a path, or a hub id
    print(llm.generate("3 + 4 =", zif.SamplingParams(max_tokens=8, temperature=0)).text)
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zif.llm import LLM
    from zif.sampling.params import SamplingParams

    __version__: str

__all__ = ["LLM", "SamplingParams", "__version__"]

# An installed vendor plugin of torch must not break, or slow down, a process that does not use it:
# torch would import it by itself. Backends that need one import it.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

_LAZY = {"LLM": "zif.llm", "SamplingParams": "zif.sampling.params"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that ``import zif`` stays cheap."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("zif")
    elif name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    else:
        raise AttributeError(f"module 'zif' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
