"""The conformance suite: what a backend has to show, for its authors and for ours.

``zif check --device NAME`` runs it; see docs/conformance.md. :func:`run` checks an installed plugin,
:func:`check_backend` a backend object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zif.conformance.results import Report, Result
    from zif.conformance.runner import check_backend, run

__all__ = ["Report", "Result", "check_backend", "run"]

_HOME = {
    "Report": "zif.conformance.results",
    "Result": "zif.conformance.results",
    "check_backend": "zif.conformance.runner",
    "run": "zif.conformance.runner",
}


def __getattr__(name: str) -> Any:
    """Import on demand: core's start does not pay for its test suite."""
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module 'zif.conformance' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
